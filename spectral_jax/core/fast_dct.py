"""The orthonormal DCT-II and its inverse by one real FFT (Makhoul, 1980).

A sequence of N numbers is shuffled, those at even places first and those at odd
ones after them in reverse; its DCT-II is then the real part of its FFT, turned
by a quarter of a step for each frequency. In two dimensions one real 2D FFT of
N×(M/2 + 1) complex numbers does what `jax.scipy.fft.idctn` does, which
transforms N×M complex ones along one axis after the other.

Shapes: N rows and M columns of a plane; T sequences.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def _half(size: int) -> int:
  """How many frequencies a real FFT has."""
  return size // 2 + 1


def _scale(size: int) -> np.ndarray:
  """What makes the DCT-II orthonormal: the norms of its cosines."""
  scale = np.full(size, math.sqrt(size / 2))
  scale[0] = math.sqrt(size)
  return scale


def _turn(size: int) -> np.ndarray:
  """Quarter steps: exp(iπk/2N), of all N frequencies k."""
  return np.exp(0.5j * np.pi * np.arange(size) / size)


def _turn_of_folded(size: int) -> np.ndarray:
  """Those of `_folded`, by the cosines' norms."""
  turn = (_turn(size) * _scale(size))[: _half(size)]
  if size % 2 == 0:
    turn[-1] *= 1 - 1j  # the middle one is its own mirror image
  return turn


def _complex(turn: np.ndarray, dtype: jnp.dtype) -> jax.Array:
  return jnp.asarray(turn, jnp.result_type(dtype, jnp.complex64))


def _along_last(vector: jax.Array, ndim: int) -> jax.Array:
  return vector.reshape(*(1,) * (ndim - 1), vector.size)


def _shuffle(values: jax.Array, axis: int) -> jax.Array:
  """Even places first, then the odd ones in reverse."""
  size = values.shape[axis]
  even = jax.lax.slice_in_dim(values, 0, size, 2, axis)
  odd = jax.lax.slice_in_dim(values, 1, size, 2, axis)
  return jnp.concatenate([even, jnp.flip(odd, axis)], axis)


def _unshuffle(values: jax.Array, axis: int) -> jax.Array:
  """The inverse of `_shuffle`."""
  size = values.shape[axis]
  count = (size + 1) // 2
  even, odd = jax.lax.split(values, (count, size - count), axis)
  odd = jnp.flip(odd, axis)
  if size % 2:  # the last even place has no odd one after it
    pad = [(0, 0)] * values.ndim
    pad[axis] = (0, 1)
    odd = jnp.pad(odd, pad)
  both = jnp.stack([even, odd], axis=axis + 1)
  shape = (*values.shape[:axis], 2 * count, *values.shape[axis + 1 :])
  return jax.lax.slice_in_dim(both.reshape(shape), 0, size, axis=axis)


def _folded(values: jax.Array) -> jax.Array:
  """Frequency k of the last axis and its mirror image as one: x_k − i x_{N−k}.

  [..., N] to [..., N/2 + 1]. The first frequency's image, x_N, is zero, and the
  middle one's of an even N is left to `_turn_of_folded`.
  """
  size, axis = values.shape[-1], values.ndim - 1
  half = _half(size)
  # Two parts, and no two slices: gradients are then joined, and not added.
  low, high = jax.lax.split(values, (half, size - half), axis)
  pad = [(0, 0)] * axis + [(1, 2 * half - size - 1)]
  return jax.lax.complex(low, -jnp.pad(jnp.flip(high, axis), pad))


def dct(sequences: jax.Array) -> jax.Array:
  """The orthonormal DCT-II along the last axis.

  Args:
    sequences: floats of at least 32 bits, [..., N].

  Returns:
    Array of the same shape: x Cᵀ.

  Example:
    >>> abs(dct(jnp.ones((1, 4))).round(3)).tolist()
    [[2.0, 0.0, 0.0, 0.0]]
  """
  size, axis = sequences.shape[-1], sequences.ndim - 1
  turn = (_turn(size).conj() / _scale(size))[: _half(size)]
  spectrum = jnp.fft.rfft(_shuffle(sequences, axis))
  spectrum *= _along_last(_complex(turn, sequences.dtype), spectrum.ndim)
  above = -jnp.imag(spectrum)[..., 1 : (size + 1) // 2]
  return jnp.concatenate([jnp.real(spectrum), above[..., ::-1]], axis)


def idct(sequences: jax.Array) -> jax.Array:
  """The inverse of `dct`, which is its adjoint: X C, [..., N] to [..., N]."""
  size, axis = sequences.shape[-1], sequences.ndim - 1
  turn = _complex(_turn_of_folded(size), sequences.dtype)
  spectrum = _folded(sequences)
  spectrum *= _along_last(turn, spectrum.ndim)
  return _unshuffle(jnp.fft.irfft(spectrum, size), axis)


def fast_idct2(plane_NxM: jax.Array) -> jax.Array:
  """The inverse 2D DCT of a plane, as `idct2`, by one real 2D FFT.

  Args:
    plane_NxM: floats of at least 32 bits.

  Returns:
    The kernel [N, M]: C_Nᵀ S C_M.
  """
  (n, m), dtype = plane_NxM.shape, plane_NxM.dtype
  spectrum = _folded(plane_NxM)
  # As along the columns: row k and its mirror image, row N of it being zero.
  spectrum -= jnp.pad(jnp.flip(1j * spectrum[1:], 0), ((1, 0), (0, 0)))
  # Factors of rows and of columns: their product would be a large constant.
  spectrum *= _complex((_turn(n) * _scale(n))[:, None], dtype)
  spectrum *= _complex(_turn_of_folded(m)[None], dtype)
  kernel = jnp.fft.irfft2(spectrum, s=(n, m))
  return _unshuffle(_unshuffle(kernel, 1), 0)
