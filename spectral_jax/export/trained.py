"""A trained model, as every format of `export` gets it."""

import dataclasses
from typing import Any

import jax
from flax import traverse_util

from spectral_jax.data.tokenizer import Tokenizer, tokenizer_fields
from spectral_jax.errors import UserError
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.generate import slide
from spectral_jax.models.stored import abstract_params, kernel_count, layers_of
from spectral_jax.models.transformer import Transformer
from spectral_jax.models.weights import place_weights

REBUILD = ('inside', 'export')
DTYPES = ('float32', 'bfloat16', 'int8', 'int4')
# A file is not believed that tells of kernels so many times its size.
_LARGEST_RATIO = 10_000


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
    >>> tokens = jax.numpy.zeros((1, 8), int)
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
    return layers_of(self.model)

  def merged(self) -> 'Trained':
    """The same function with dense layers, their kernels rebuilt.

    Raises:
      UserError: for low-rank layers.
    """
    if self.model.config.linear.kind == 'low_rank':
      raise UserError(
        'linear.kind: low-rank layers are not merged; take a dense or a '
        'spectral run.'
      )
    model, params = place_weights(self.model, self.params, 'merged')
    return dataclasses.replace(self, model=model, params=params)

  def to_generate(self) -> dict[str, Any]:
    """What a program that generates has to know beside the weights.

    `context`; `slide`, how many of the oldest tokens to drop where the context
    is full; and `tokenizer`, as a workdir's tokenizer.json has it, or None.
    """
    context = self.model.config.context
    return {
      'context': context,
      'slide': slide(context),
      'tokenizer': self.tokenizer and tokenizer_fields(self.tokenizer),
    }

  @property
  def bytes(self) -> int:
    """Of the parameters as they lie in memory."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))


def leaf_shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
  """The shape of each parameter of a model, by its path with dots."""
  leaves = traverse_util.flatten_dict(abstract_params(model), sep='.')
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
  rows = 2 * model.vocabulary + config.context
  count = kernel_count(config) + rows * config.width
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

  def check_dtype(self, *stored: str) -> str:
    """The dtype, of those that a format stores; by default the first.

    Raises:
      UserError: for another.
    """
    if self.dtype not in (None, *stored):
      raise UserError(
        f'--dtype: expected {" or ".join(stored)}, got {self.dtype}.'
      )
    return self.dtype or stored[0]


def rebuilds_inside(model: Transformer, rebuild: str) -> bool:
  """Whether what is written is to make kernels of coefficients.

  Raises:
    UserError: if it is to, and cannot: of the cosines alone is known how.
  """
  linear = model.config.linear
  inside = rebuild == 'inside' and linear.kind == 'spectral'
  if inside and linear.basis != 'dct':
    raise UserError(
      f'--rebuild=inside: not of the basis {linear.basis!r}; take export.'
    )
  return inside
