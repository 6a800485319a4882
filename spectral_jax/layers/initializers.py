"""Initial coefficients whose kernel has the variance that was asked for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from spectral_jax.core.reconstruct import coefficients_from_kernel
from spectral_jax.core.selection import Selection

Initializer = Callable[..., jax.Array]


def coefficients_init(
  kernel_init: Initializer, selection: Selection, basis: str = 'dct'
) -> Initializer:
  """An initializer for coefficients, from one for kernels [N, M].

  A kernel is drawn and projected. The projection keeps K of its N·M degrees of
  freedom, so the coefficients are scaled by √(NM/K): the rebuilt kernel then
  has the variance of the drawn one, whatever K and selection. With all N·M
  kept, it is the drawn kernel.
  """

  def init(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
  ) -> jax.Array:
    if shape != selection.layout:
      raise ValueError(f'shape: expected {selection.layout}, got {shape}.')
    kernel = kernel_init(key, selection.shape, dtype)
    coefficients = coefficients_from_kernel(kernel, selection, basis=basis)
    return coefficients * jnp.asarray(selection.fraction**-0.5, dtype)

  return init
