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


def _turn(frequencies: np.ndarray, size: int) -> np.ndarray:
  """Quarter steps: exp(iπk/2N)."""
  return np.exp(0.5j * np.pi * frequencies / size)


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
  even = jax.lax.slice_in_dim(values, 0, count, axis=axis)
  odd = jnp.flip(jax.lax.slice_in_dim(values, count, size, axis=axis), axis)
  if size % 2:  # the last even place has no odd one after it
    pad = [(0, 0)] * values.ndim
    pad[axis] = (0, 1)
    odd = jnp.pad(odd, pad)
  both = jnp.stack([even, odd], axis=axis + 1)
  shape = (*values.shape[:axis], 2 * count, *values.shape[axis + 1 :])
  return jax.lax.slice_in_dim(both.reshape(shape), 0, size, axis=axis)


def _mirrored(values: jax.Array, axis: int, count: int) -> jax.Array:
  """Entries N, N − 1, … along an axis, the first of them, N, being zero."""
  size = values.shape[axis]
  last = jax.lax.slice_in_dim(values, size - count + 1, size, axis=axis)
  pad = [(0, 0)] * values.ndim
  pad[axis] = (1, 0)
  return jnp.pad(jnp.flip(last, axis), pad)


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
  k = np.arange(_half(size))
  turn = _turn(-k, size) / _scale(size)[k]
  spectrum = jnp.fft.rfft(_shuffle(sequences, axis))
  spectrum *= _along_last(_complex(turn, sequences.dtype), spectrum.ndim)
  above = -jnp.imag(spectrum)[..., 1 : (size + 1) // 2]
  return jnp.concatenate([jnp.real(spectrum), above[..., ::-1]], axis)


def idct(sequences: jax.Array) -> jax.Array:
  """The inverse of `dct`, which is its adjoint: X C, [..., N] to [..., N]."""
  size, axis = sequences.shape[-1], sequences.ndim - 1
  half = _half(size)
  scale = jnp.asarray(_scale(size), sequences.dtype)
  wide = sequences * _along_last(scale, sequences.ndim)
  spectrum = jax.lax.complex(wide[..., :half], -_mirrored(wide, axis, half))
  turn = _complex(_turn(np.arange(half), size), sequences.dtype)
  spectrum *= _along_last(turn, spectrum.ndim)
  return _unshuffle(jnp.fft.irfft(spectrum, size), axis)


def fast_idct2(plane_NxM: jax.Array) -> jax.Array:
  """The inverse 2D DCT of a plane, as `idct2`, by one real 2D FFT.

  Args:
    plane_NxM: floats of at least 32 bits.

  Returns:
    The kernel [N, M]: C_Nᵀ S C_M.
  """
  n, m = plane_NxM.shape
  half, dtype = _half(m), plane_NxM.dtype
  # Factors of rows and of columns: their product would be a large constant.
  wide = plane_NxM * jnp.asarray(_scale(n)[:, None], dtype)
  wide *= jnp.asarray(_scale(m)[None], dtype)
  below = _mirrored(wide, 0, n)
  # In each axis cos θ is the half of e^{iθ} + e^{-iθ}; of the four products
  # those with a zero frequency's mirror, N or M, vanish.
  spectrum = jax.lax.complex(
    wide[:, :half] - _mirrored(below, 1, half),
    -(below[:, :half] + _mirrored(wide, 1, half)),
  )
  spectrum *= _complex(_turn(np.arange(n), n)[:, None], dtype)
  spectrum *= _complex(_turn(np.arange(half), m)[None], dtype)
  kernel = jnp.fft.irfft2(spectrum, s=(n, m))
  return _unshuffle(_unshuffle(kernel, 1), 0)
