"""Whether this machine's compiler computes rebuilt kernels right.

Some releases of XLA miscompile, in silence, a kernel rebuilt inside the jitted
function and used in a residual branch before a norm: right at 16 sequences of
128 tokens, wrong by whole units at 32 (jaxlib 0.10.2, 0.11.0 and 0.11.1 on CPU;
https://github.com/jax-ml/jax/issues/39103, 39257, 40412).
"""

import jax
import numpy as np
import scipy.fft

from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import Selection

_WIDTH = 128
_UP = Selection('lowpass', (_WIDTH, 4 * _WIDTH), 2 * _WIDTH**2)
_DOWN = Selection('lowpass', (4 * _WIDTH, _WIDTH), 2 * _WIDTH**2)


def _branch(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
  hidden = jax.nn.relu(x @ kernel_from_coefficients(up, _UP))
  stream = x + hidden @ kernel_from_coefficients(down, _DOWN)
  return jax.nn.standardize(stream, epsilon=0.0)


def _branch_by_numpy(
  x: np.ndarray, up: np.ndarray, down: np.ndarray
) -> np.ndarray:
  kernels = []
  for coefficients, selection in ((up, _UP), (down, _DOWN)):
    plane = np.zeros(selection.shape, coefficients.dtype)
    plane.flat[selection.positions] = coefficients
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

  def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)

  up, down = (normal(s.count) * _WIDTH**-0.5 for s in (_UP, _DOWN))
  x = normal(max(batch_sizes), _WIDTH, _WIDTH)
  expected = _branch_by_numpy(x, up, down)
  compiled = jax.jit(_branch)
  return max(
    float(np.abs(np.asarray(compiled(x[:b], up, down)) - expected[:b]).max())
    for b in batch_sizes
  )
