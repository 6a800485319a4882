"""A trained model, as every format of `export` gets it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from spectral_jax.convert.project import to_dense
from spectral_jax.data.tokenizer import Tokenizer
from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import Transformer

REBUILD = ('inside', 'export')
DTYPES = ('float32', 'bfloat16', 'int8', 'int4')


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with its parameters and its tokenizer.

  Attributes:
    model: the transformer, whose config says what its layers store.
    params: its parameters.
    tokenizer: of its vocabulary.
    recipe: of the run it comes from, as its config.json has it, or empty.
    digest: the SHA-256 of the data it was trained on, or empty.
  """

  model: Transformer
  params: Any
  tokenizer: Tokenizer
  recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
  digest: str = ''

  def layers(self) -> dict[str, SpectralKernel]:
    """What its spectral layers store."""
    tokens = jnp.zeros((1, self.model.config.context), jnp.int32)
    return find_layers(self.model, tokens)

  def merged(self) -> 'Trained':
    """The same function with dense layers, their kernels rebuilt.

    Raises:
      ValueError: for low-rank layers.
    """
    config = self.model.config
    if config.linear.kind == 'low_rank':
      raise ValueError('linear.kind: expected dense or spectral, got low_rank.')
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
