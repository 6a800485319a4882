"""A trained model, as every format of `export` gets it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from spectral_jax.convert.project import to_dense
from spectral_jax.data.tokenizer import Tokenizer
from spectral_jax.errors import UserError
from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import Transformer

REBUILD = ('inside', 'export')
DTYPES = ('float32', 'bfloat16', 'int8', 'int4')
# A file is not believed that tells of kernels so many times its size.
_LARGEST_RATIO = 10_000
_ONE_TOKEN = jax.ShapeDtypeStruct((1, 1), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with its parameters and its tokenizer.

  Attributes:
    model: the transformer, whose config says what its layers store.
    params: its parameters, the nested dictionary below {'params': …}.
    tokenizer: of its vocabulary; None where only token ids are at hand.
    recipe: of the run it comes from, as its config.json has it, or empty.
    digest: the SHA-256 of the data it was trained on, or empty.

  Example:
    >>> from spectral_jax.models.transformer import TransformerConfig
    >>> config = TransformerConfig(context=8, width=8, layers=1, heads=2)
    >>> model = Transformer(65, config)
    >>> tokens = jnp.zeros((1, 8), jnp.int32)
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)['params']
    >>> trained = Trained(model, params)
    >>> sorted(trained.layers())[0], trained.bytes, trained.merged().bytes
    ('block_0/mlp_in', 6432, 7968)
  """

  model: Transformer
  params: Any
  tokenizer: Tokenizer | None = None
  recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
  digest: str = ''

  def layers(self) -> dict[str, SpectralKernel]:
    """What its spectral layers store."""
    return find_layers(self.model, _ONE_TOKEN)

  def merged(self) -> 'Trained':
    """The same function with dense layers, their kernels rebuilt.

    Raises:
      UserError: for low-rank layers.
    """
    config = self.model.config
    if config.linear.kind == 'low_rank':
      raise UserError(
        'linear.kind: low-rank layers are not merged; take a dense or a '
        'spectral run.'
      )
    dense = dataclasses.replace(config, linear=LinearConfig(kind='dense'))
    return dataclasses.replace(
      self,
      model=self.model.copy(config=dense),
      params=to_dense(self.params, self.layers()),
    )

  @property
  def bytes(self) -> int:
    """Of the parameters as they lie in memory."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))


def leaf_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
  """The shape of each parameter of a model, by its path with dots."""
  key = jax.random.key(0)
  params = jax.eval_shape(model.init, key, _ONE_TOKEN)['params']
  leaves = traverse_util.flatten_dict(params, sep='.')
  return {name: leaf.shape for name, leaf in leaves.items()}


def check_believable(model: Transformer, size: int, tensors: int) -> None:
  """Refuses a model that is in no such file, before anything is traced.

  Args:
    model: what the file says it holds.
    size: of the file's tensors, in bytes.
    tensors: how many there are.

  Raises:
    ValueError: says how large the model would be.
  """
  config = model.config
  kernels = sum(n * m for n, m in config.kernel_shapes().values())
  rows = 2 * model.vocabulary + config.context
  count = config.layers * kernels + rows * config.width
  if count > _LARGEST_RATIO * size:
    raise ValueError(f'{count:,} weights cannot be in {size:,} bytes.')
  if config.layers > tensors and not config.scan:
    raise ValueError(
      f'{config.layers:,} layers cannot be in {tensors} tensors.'
    )


@dataclasses.dataclass(frozen=True)
class Options:
  """What a format is asked for, by flags.

  Attributes:
    dtype: of the numbers that are stored, one of `DTYPES`; None for what the
      format itself prefers.
    rebuild: where kernels are made of their coefficients, one of `REBUILD`:
      `inside` what is written, when it is loaded, or at `export`, which stores
      every weight.
  """

  dtype: str | None = None
  rebuild: str = 'inside'
