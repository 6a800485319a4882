"""Products of matrices, and for CPUs the gradients of tall kernels.

XLA computes the gradient of a kernel of more rows than columns at about half of
the rate of its other products on CPUs. Its transpose it computes at nearly all
of it, once the narrower factor, the gradient of the outputs, is transposed in
memory (docs/performance.md).

Shapes: T rows of inputs; kernel [N, M]; equal axes before both, batches.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

from spectral_jax.core.platform import planned_platform

# Keyword arguments, in a form that can be hashed.
Settings = tuple[tuple[str, Any], ...]
_barrier: Callable[[jax.Array], jax.Array] = jax.lax.optimization_barrier


def matmul(inputs: jax.Array, kernel: jax.Array, **settings: Any) -> jax.Array:
  """`jnp.matmul` of inputs [..., T, N] and a kernel [..., N, M].

  Args:
    inputs: with the batches of the kernel.
    kernel: on CPUs, if it is tall, its gradient is computed as its transpose.
    **settings: `precision` and `preferred_element_type`.

  Returns:
    Outputs [..., T, M].

  Example:
    >>> matmul(jax.numpy.ones((2, 3)), jax.numpy.ones((3, 1))).tolist()
    [[3.0], [3.0]]
  """
  rows, columns = kernel.shape[-2:]
  frozen = tuple(settings.items())
  if planned_platform() == 'cpu' and rows > columns:
    return _tall(inputs, kernel, frozen)
  return _contract(inputs, kernel, -2, frozen)


def _contract(
  a: jax.Array, b: jax.Array, axis: int, settings: Settings
) -> jax.Array:
  """Contracts the last axis of `a` with an axis of `b`, one of its last two."""
  batch = tuple(range(a.ndim - 2))
  axes = ((a.ndim - 1,), (b.ndim + axis,))
  return jax.lax.dot_general(a, b, (axes, (batch, batch)), **dict(settings))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _tall(
  inputs: jax.Array, kernel: jax.Array, settings: Settings
) -> jax.Array:
  return _contract(inputs, kernel, -2, settings)


@functools.partial(_tall.defjvp, symbolic_zeros=True)
def _tall_jvp(settings: Settings, primals: Any, tangents: Any) -> Any:
  inputs, kernel = primals
  of_inputs, of_kernel = tangents
  parts = []
  if not isinstance(of_inputs, SymbolicZero):
    parts.append(_contract(of_inputs, kernel, -2, settings))
  if not isinstance(of_kernel, SymbolicZero):
    # Autodiff transposes this to what the module says; barriers keep the
    # compiler from taking the transpositions into the product.
    transposed = _contract(_barrier(of_kernel.mT), inputs, -1, settings)
    parts.append(_barrier(transposed).mT)
  return _tall(inputs, kernel, settings), sum(parts[1:], parts[0])
