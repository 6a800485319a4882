"""Initial coefficients whose kernel has the variance that was asked for."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.core import meta

from spectral_jax.core.reconstruct import coefficients_from_kernel
from spectral_jax.core.selection import Selection

Initializer = Callable[..., jax.Array]


def coefficients_init(
  kernel_init: Initializer,
  selection: Selection,
  basis: str = 'dct',
  stack: tuple[int, ...] = (),
) -> Initializer:
  """An initializer for coefficients, from one for kernels [N, M].

  A kernel is drawn and projected. The projection keeps K of its N·M degrees of
  freedom, so the coefficients are scaled by √(NM/K): the rebuilt kernel then
  has the variance of the drawn one, whatever K and selection. With all N·M
  kept, it is the drawn kernel. Names of the drawn kernel's axes, with which
  Flax partitions it, are dropped: coefficients have no such axes.

  Args:
    kernel_init: of a kernel. Where several are stacked, of all of them under
      one another, as Flax draws the kernels of `DenseGeneral`.
    selection: the positions, the same for each of a stack.
    basis: of the coefficients.
    stack: S, the shape of a stack of kernels. Coefficients are [*S, *layout].
  """

  def init(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
  ) -> jax.Array:
    if shape != (*stack, *selection.layout):
      raise ValueError(
        f'shape: expected {(*stack, *selection.layout)}, got {shape}.'
      )
    n, m = selection.shape
    drawn = meta.unbox(kernel_init(key, (math.prod(stack) * n, m), dtype))

    def project(kernel: jax.Array) -> jax.Array:
      return coefficients_from_kernel(kernel, selection, basis=basis)

    for _ in stack:
      project = jax.vmap(project)
    coefficients = project(drawn.reshape(*stack, n, m))
    return coefficients * jnp.asarray(selection.fraction**-0.5, dtype)

  return init
