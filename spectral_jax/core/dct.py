"""The orthonormal discrete cosine transform (DCT-II) and its basis.

Shapes: N rows (inputs) and M columns (outputs) of a kernel; R frequencies.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Beyond it a phase of the basis would not fit in 32 bits.
LARGEST_SIZE = 32768
# A basis captured as a constant costs nothing per step, but lies in the
# executable; above this size it is computed in the graph instead.
_LARGEST_CONSTANT = 1024


def _constant_basis(
  size: int, frequencies: np.ndarray, places: int
) -> np.ndarray:
  phase = (2 * np.arange(places) + 1) * frequencies[..., None] % (4 * size)
  basis = np.cos(np.pi / (2 * size) * phase) * math.sqrt(2 / size)
  basis[frequencies == 0] /= math.sqrt(2)
  return basis


def computed_basis(
  size: int, frequencies: np.ndarray, dtype: jnp.dtype, places: int
) -> jax.Array:
  """What `dct_basis` has, as operations: no number lies in the program."""
  # The phase is reduced in integers: in float32 the cosine of a large phase
  # errs by 1e-3 at 4,096. The barrier keeps XLA from folding the result.
  rows = jnp.asarray(frequencies, jnp.int32)[..., None]
  place = jax.lax.broadcasted_iota(
    jnp.int32, (*frequencies.shape, places), frequencies.ndim
  )
  phase = (2 * place + 1) * rows % (4 * size)
  # cos φ = sin(|π − φ| − π/2), an angle of at most a right one.
  angle = (jnp.abs(phase - 2 * size) - size).astype(dtype)
  basis = _sine(angle * (math.pi / (2 * size)))
  # Python's floats: NumPy's would widen a float32 basis in 64-bit mode.
  basis *= math.sqrt(2 / size)
  return jax.lax.optimization_barrier(
    jnp.where(rows == 0, basis / math.sqrt(2), basis)
  )


def _sine(x: jax.Array) -> jax.Array:
  """The sine of angles in [−π/2, π/2], by its Taylor series.

  XLA's own, made for any angle, takes a TPU's compiler half a minute.
  """
  terms = 7 if x.dtype == jnp.float32 else 11  # all that the dtype can tell
  total = jnp.zeros_like(x)
  for k in reversed(range(terms)):
    total = total * x**2 + (-1) ** k / math.factorial(2 * k + 1)
  return x * total


def dct_basis(
  size: int,
  frequencies: np.ndarray | None = None,
  dtype: jnp.dtype = jnp.float32,
  places: int | None = None,
) -> jax.Array:
  """Returns rows of the orthonormal DCT-II matrix C, so that C Cᵀ = 1.

  C[k, j] = s(k) cos(π (2j + 1) k / 2N), s(0) = √(1/N), s(k) = √(2/N): row k is
  the cosine of frequency k, sampled at N places.

  Args:
    size: N.
    frequencies: the rows wanted, integers of any shape; all N by default.
    dtype: a float type of at least 32 bits.
    places: the first ones that are wanted; by default all N.

  Returns:
    Array of shape `frequencies.shape + (places,)`.

  Raises:
    ValueError: if N is no positive number, or too large for 32-bit phases.

  Example:
    >>> basis = dct_basis(8)
    >>> bool(jnp.allclose(basis @ basis.T, jnp.eye(8), atol=1e-6))
    True
  """
  if not 1 <= size <= LARGEST_SIZE:
    raise ValueError(f'size: expected 1 to {LARGEST_SIZE}, got {size}.')
  rows = np.arange(size) if frequencies is None else np.asarray(frequencies)
  places = size if places is None else places
  if size <= _LARGEST_CONSTANT:
    return jnp.asarray(_constant_basis(size, rows, places), dtype)
  return computed_basis(size, rows, dtype, places)


def idct2(plane: jax.Array) -> jax.Array:
  """The inverse 2D DCT, W = C_Nᵀ S C_M: plane [N, M] to kernel [N, M].

  This is `jax.scipy.fft.idctn`, the definition of the method; every faster way
  must equal it.
  """
  return jax.scipy.fft.idctn(plane, norm='ortho')
