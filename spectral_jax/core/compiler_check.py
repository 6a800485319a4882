"""Whether this machine's compiler computes rebuilt kernels right.

Some releases of XLA miscompile, in silence, a kernel rebuilt inside the jitted
function and used in a residual branch before a norm: right at 16 sequences of
128 tokens, wrong by whole units at 32 (jaxlib 0.10.2, 0.11.0 and 0.11.1 on CPU;
https://github.com/jax-ml/jax/issues/39103, 39257, 40412).
"""

import jax
import numpy as np
import scipy.fft

from spectral_jax.core.dct import dct_basis
from spectral_jax.core.folded import folded_product
from spectral_jax.core.reconstruct import (
  kernel_from_coefficients,
  plane_from_coefficients,
)
from spectral_jax.core.selection import Selection

_WIDTH = 128
# What is checked: a kernel that is itself a product, as was seen to go wrong,
# and the ways in which `auto` computes strided layers and kernels on CPUs.
_WAYS = {'bases': 'lowpass'} | dict.fromkeys(
  ('gemm', 'gemm_fft', 'folded'), 'strided'
)


def _selections(kind: str) -> tuple[Selection, Selection]:
  shapes = ((_WIDTH, 4 * _WIDTH), (4 * _WIDTH, _WIDTH))
  up, down = (Selection.of(kind, shape, 0.5) for shape in shapes)
  return up, down


def _product(
  x: jax.Array, coefficients: jax.Array, selection: Selection, way: str
) -> jax.Array:
  n, m = selection.shape
  if way == 'folded':
    outputs = folded_product(x.reshape(-1, n), coefficients, selection)
    return outputs.reshape(*x.shape[:-1], m)
  if way in ('gemm', 'gemm_fft'):
    return x @ kernel_from_coefficients(coefficients, selection, way)
  plane = plane_from_coefficients(coefficients, selection)
  return x @ (dct_basis(n).T @ plane @ dct_basis(m))


def _branch(
  x: jax.Array, up: jax.Array, down: jax.Array, way: str
) -> jax.Array:
  up_selection, down_selection = _selections(_WAYS[way])
  hidden = jax.nn.relu(_product(x, up, up_selection, way))
  stream = x + _product(hidden, down, down_selection, way)
  return jax.nn.standardize(stream, epsilon=0.0)


def _branch_by_numpy(
  x: np.ndarray, up: np.ndarray, down: np.ndarray, kind: str
) -> np.ndarray:
  kernels = []
  for coefficients, selection in zip(
    (up, down), _selections(kind), strict=True
  ):
    plane = np.zeros(selection.shape, coefficients.dtype)
    plane.flat[selection.positions] = coefficients.ravel()
    kernels.append(scipy.fft.idctn(plane, norm='ortho'))
  stream = x + np.maximum(x @ kernels[0], 0) @ kernels[1]
  stream -= stream.mean(axis=-1, keepdims=True)
  return np.asarray(stream / stream.std(axis=-1, keepdims=True))


def compiled_error(batch_sizes: tuple[int, ...] = (16, 32)) -> float:
  """The largest difference of a compiled branch from one by NumPy and SciPy.

  The branch's outputs have unit variance: a sound compiler differs by 1e-5 or
  so (1e-2 where products are taken in bfloat16), a broken one by about 1.
  """
  rng = np.random.default_rng(0)
  x = rng.standard_normal((max(batch_sizes), _WIDTH, _WIDTH), np.float32)
  largest = 0.0
  for way, kind in _WAYS.items():
    up, down = (
      rng.standard_normal(selection.layout, np.float32) * _WIDTH**-0.5
      for selection in _selections(kind)
    )
    expected = _branch_by_numpy(x, up, down, kind)
    compiled = jax.jit(_branch, static_argnames='way')
    for b in batch_sizes:
      error = np.abs(np.asarray(compiled(x[:b], up, down, way)) - expected[:b])
      largest = max(largest, float(error.max()))
  return largest
