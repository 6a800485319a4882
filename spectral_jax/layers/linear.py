"""The linear layer as a choice: dense, spectral, or low rank."""

import dataclasses

import flax.linen as nn
from flax.typing import Dtype

from spectral_jax.core.basis import BASES, LARGEST_RANDOM
from spectral_jax.core.dct import LARGEST_SIZE
from spectral_jax.core.reconstruct import METHODS, check_basis
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.initializers import Initializer
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.layers.product import matrix_product

LINEARS = ('dense', 'spectral', 'low_rank')


@dataclasses.dataclass(frozen=True)
class LinearConfig:
  """How a model's linear layers store their kernels.

  Attributes:
    kind: `dense`, `spectral` or `low_rank`.
    keep: spectral: the fraction of N·M coefficients stored, 0 < keep ≤ 1 (here
      always a fraction: the layers differ in size).
    selection: spectral: which ones, see `Selection`.
    method: spectral: how the kernel is rebuilt, if it is, see `SpectralDense`.
    basis: spectral: `dct`, or `orthonormal`, a random rotation.
    rank: low_rank: the inner size.

  Raises:
    ValueError: names the field, what was expected, and what was got.
  """

  kind: str = 'spectral'
  keep: float = 0.5
  selection: str = 'random'
  method: str = 'auto'
  basis: str = 'dct'
  rank: int = 16

  def __post_init__(self) -> None:
    for field, choices in (
      ('kind', LINEARS),
      ('selection', KINDS),
      ('method', METHODS),
      ('basis', BASES),
    ):
      value = getattr(self, field)
      if value not in choices:
        raise ValueError(
          f'{field}: expected one of {", ".join(choices)}, got {value!r}.'
        )
    check_basis(self.method, self.basis)
    number = isinstance(self.keep, float | int) and self.keep is not True
    if not number or not 0 < self.keep <= 1:
      raise ValueError(
        f'keep: expected a fraction above 0 and up to 1.0, got {self.keep!r}.'
      )
    if self.rank < 1:
      raise ValueError(f'rank: expected at least 1, got {self.rank}.')

  def select(self, shape: tuple[int, int], seed: int) -> Selection:
    """The positions that a spectral layer of this shape and seed stores."""
    return Selection.of(self.selection, shape, float(self.keep), seed)

  def check(self, shape: tuple[int, int]) -> None:
    """Raises ValueError if no kernel of this shape can be stored so."""
    if self.kind == 'spectral':
      largest = LARGEST_SIZE if self.basis == 'dct' else LARGEST_RANDOM
      if max(shape) > largest:
        raise ValueError(
          f'kind: spectral kernels in the basis {self.basis} reach {largest} a '
          f'side, got {shape[0]}×{shape[1]}.'
        )
      self.select(shape, seed=0)
    if self.kind == 'low_rank' and self.rank > min(shape):
      raise ValueError(
        f'rank: expected at most {min(shape)} for a {shape[0]}×{shape[1]} '
        f'kernel, got {self.rank}.'
      )

  def make(
    self,
    features: int,
    *,
    seed: int,
    dtype: Dtype | None = None,
    kernel_init: Initializer,
    name: str,
  ) -> nn.Module:
    """The layer, computing in `dtype`; `seed` should differ between layers."""
    if self.kind == 'dense':
      return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=kernel_init,
        dot_general=matrix_product,
        name=name,
      )
    if self.kind == 'low_rank':
      return LowRankDense(
        features, self.rank, dtype=dtype, kernel_init=kernel_init, name=name
      )
    return SpectralDense(
      features,
      dtype=dtype,
      kernel_init=kernel_init,
      keep=float(self.keep),  # an int would be a count
      selection=self.selection,
      seed=seed,
      method=self.method,
      basis=self.basis,
      name=name,
    )
