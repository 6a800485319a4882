"""The product that ends every linear layer, once its kernel is rebuilt.

Shapes: B, I and O are tuples of sizes: batch, input and output features.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from spectral_jax.core.platform import planned_platform
from spectral_jax.core.tall import matmul


def as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
  """One number or several, as several."""
  return tuple(value) if isinstance(value, Iterable) else (value,)


def counted_from_front(axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
  """Axes of an array, none negative, in ascending order, as Flax takes them.

  >>> counted_from_front((-1, 1), 4)
  (1, 3)
  """
  return tuple(sorted(a if a >= 0 else ndim + a for a in as_tuple(axes)))


def matrix_product(
  inputs: jax.Array,
  kernel: jax.Array,
  dimension_numbers: jax.lax.DotDimensionNumbers,
  **settings: Any,
) -> jax.Array:
  """`jax.lax.dot_general`, on CPUs of two matrices where it can be.

  Of inputs with more axes XLA makes the kernel's gradient a product by what it
  transposes first, which takes about twice as long. Other platforms do no such
  thing, and there axes may lie on several devices.
  """
  (axis, of_kernel), (batch, _) = dimension_numbers
  free, contracted = inputs.ndim - len(axis), tuple(range(len(axis)))
  adjacent = (
    tuple(axis) == tuple(free + a for a in contracted)
    and tuple(of_kernel) == contracted
  )
  sharded = settings.get('out_sharding') is not None or any(
    any(jax.typeof(a).sharding.spec) for a in (inputs, kernel)
  )
  if planned_platform() != 'cpu' or batch or sharded or not adjacent:
    return jax.lax.dot_general(inputs, kernel, dimension_numbers, **settings)
  outer, outputs = inputs.shape[:free], kernel.shape[len(axis) :]
  inner = math.prod(inputs.shape[free:])
  product = matmul(
    inputs.reshape(math.prod(outer), inner),
    kernel.reshape(inner, math.prod(outputs)),
    **settings,
  )
  return product.reshape(*outer, *outputs)


def contract(
  inputs: jax.Array,
  kernel: jax.Array,
  bias: jax.Array | None,
  *,
  axis: tuple[int, ...],
  batch: tuple[int, ...] = (),
  dot_general: Any = None,
  dot_general_cls: Any = None,
  **settings: Any,
) -> jax.Array:
  """Maps inputs [*B, …, *I] to [*B, …, *O]: x W + b, as Flax's layers do it.

  Args:
    inputs: with I at `axis`.
    kernel: [*B, *I, *O].
    bias: [*B, *O], or None.
    axis: those of the inputs that are contracted, ascending.
    batch: leading axes of the inputs that have a kernel each.
    dot_general: in place of `matrix_product`.
    dot_general_cls: makes `dot_general`.
    **settings: of the product, as `precision`.
  """
  if dot_general_cls is not None:
    dot_general = dot_general_cls()
  product = dot_general or matrix_product
  b, i = len(batch), len(axis)
  dimensions = ((axis, tuple(range(b, b + i))), (batch, tuple(range(b))))
  outputs = product(inputs, kernel, dimensions, **settings)
  if bias is not None:
    between = (1,) * (inputs.ndim - b - i)
    outputs += bias.reshape(*bias.shape[:b], *between, *bias.shape[b:])
  return outputs
