"""Initial coefficients whose kernel has the variance that was asked for."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.core import meta

from spectral_jax.layers.spectral_kernel import SpectralKernel

Initializer = Callable[..., jax.Array]


def coefficients_init(
  kernel_init: Initializer, stored: SpectralKernel
) -> Initializer:
  """An initializer for coefficients, from one for kernels [N, M].

  A kernel is drawn and projected. The projection keeps K of its N·M degrees of
  freedom, so the coefficients are scaled by √(NM/K): the rebuilt kernel then
  has the variance of the drawn one, whatever K and selection. With all N·M
  kept, it is the drawn kernel. Names of the drawn kernel's axes, with which
  Flax partitions it, are dropped: coefficients have no such axes.

  Args:
    kernel_init: of a kernel; of a stack's, all under one another, [S·N, M], as
      Flax draws the kernels of `DenseGeneral`.
    stored: what is stored of the kernel. Its stack leads.
  """

  def init(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
  ) -> jax.Array:
    if shape != stored.layout:
      raise ValueError(f'shape: expected {stored.layout}, got {shape}.')
    n, m = stored.selection.shape
    drawn = meta.unbox(kernel_init(key, (stored.copies * n, m), dtype))
    coefficients = stored.project(drawn.reshape(stored.shape))
    scale = math.sqrt(1 / stored.selection.fraction)
    return coefficients * jnp.asarray(scale, dtype)

  return init
