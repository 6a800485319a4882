"""The two bases in which a kernel can be stored: cosines, or a random one.

Shapes: N places; K rows of a basis, of any layout.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.dct import dct_basis
from spectral_jax.core.hashing import mix

BASES = ('dct', 'orthonormal')
LARGEST_RANDOM = 4096


@functools.lru_cache(maxsize=16)
def _random_basis(size: int) -> np.ndarray:
  import scipy.special  # here, since it is slow to import and seldom wanted

  # Gaussian numbers from a hash, for NumPy promises no stream; the Q of a
  # Gaussian matrix is uniform over rotations once R's diagonal is positive.
  numbers = mix(np.arange(size * size, dtype=np.uint64) + np.uint64(size << 32))
  uniform = ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
  q, r = np.linalg.qr(scipy.special.ndtri(uniform).reshape(size, size))
  basis: np.ndarray = q * np.sign(np.diag(r))
  basis.setflags(write=False)  # it is cached
  return basis


def basis_rows(
  basis: str,
  size: int,
  rows: np.ndarray,
  dtype: jnp.dtype,
  places: int | None = None,
) -> jax.Array:
  """Rows of an orthonormal basis of R^N.

  Args:
    basis: `dct`, the cosines of `dct_basis`; or `orthonormal`, one random
      rotation for each size, which the paper's version 2 compares with.
    size: N.
    rows: which, integers of any shape.
    dtype: a float type of at least 32 bits.
    places: the first ones that are wanted; by default all N.

  Returns:
    Array of shape `rows.shape + (places,)`.

  Raises:
    ValueError: for an unknown basis, or a random one of more than 4,096 places:
      it is a control for experiments, held as a constant.
  """
  if basis == 'dct':
    return dct_basis(size, rows, dtype, places)
  if basis != 'orthonormal':
    raise ValueError(
      f'basis: expected one of {", ".join(BASES)}, got {basis!r}.'
    )
  if size > LARGEST_RANDOM:
    raise ValueError(
      f'basis: a random orthonormal one has at most {LARGEST_RANDOM} places, '
      f"got {size}; take 'dct'."
    )
  return jnp.asarray(_random_basis(size)[rows][..., :places], dtype)
