"""The layer in one kernel a pass: W is rebuilt where it is multiplied.

On TPU a panel of W's columns at a time is rebuilt in on-chip memory and meets
all tokens there (`panels`); neither W nor its gradient is ever an array in the
device's memory, and nothing but inputs and coefficients is kept for the
backward pass. The cosines' symmetry is taken on the inputs and outputs: the
sum and the difference of an input and its mirror image are all that cosines of
even, and of odd, frequencies see. So panels have half of W's rows, and where
blocks have one parity (`strided` of an even stride) half of the products with
tokens are none.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.gemm import (
  Blocks,
  blocks_of,
  by_parity,
  foldable,
  sum_of_blocks,
)
from spectral_jax.core.plan import planned_platform
from spectral_jax.core.selection import Selection


def fused_product(
  inputs_TxN: jax.Array,
  coefficients: jax.Array,
  selection: Selection,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies inputs by the kernel of coefficients, which stays on the chip.

  What platform a program is for says `planned_for`, else JAX. Where it is no
  TPU, XLA rebuilds the quarters of the kernel, in memory. On TPU there is no
  forward-mode derivative; vmap, remat and shard_map are as ever.

  Args:
    inputs_TxN: floats; on TPU float32 or bfloat16.
    coefficients: of shape `selection.layout`, of the same dtype. On TPU all
      factors are rounded to it, all sums are float32.
    selection: their positions, of the basis `dct`. Those that are no blocks
      are first laid out on their bounding box.
    precision: of the product with the inputs, see `jax.lax.Precision`; the
      kernel is rebuilt at the highest.

  Returns:
    Outputs [T, M], of that dtype.

  Raises:
    ValueError: on TPU, for another dtype, or where a panel of the kernel, or
      the gradient of the coefficients, is more than its on-chip memory.

  Example:
    >>> selection = Selection.of('strided', (4, 6), keep=0.5)
    >>> x, c = jnp.ones((2, 4)), jnp.ones(selection.layout)
    >>> fused_product(x, c, selection).shape
    (2, 6)
  """
  halves = foldable(selection, 'dct')
  folded = _fold(inputs_TxN) if halves else (inputs_TxN,)
  outputs: dict[int, jax.Array] = {}
  for (p, q), blocks in by_parity(
    blocks_of(coefficients, selection), (halves, halves)
  ).items():
    product = _product_of(blocks, selection.shape, halves, precision)
    added = product(folded[p], blocks.coefficients)
    outputs[q] = outputs[q] + added if q in outputs else added
  return _unfold(outputs, selection.shape[1]) if halves else outputs[0]


def _fold(inputs_TxN: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums and differences of the first half and the last one, mirrored."""
  n = inputs_TxN.shape[1]
  half = (n + 1) // 2
  first, last = inputs_TxN[:, :half], inputs_TxN[:, half:][:, ::-1]
  last = jnp.pad(last, ((0, 0), (0, n % 2)))  # the middle has no image
  return first + last, first - last


def _unfold(outputs: dict[int, jax.Array], features: int) -> jax.Array:
  """Outputs of even and of odd frequencies to their places, [T, M]."""
  even = outputs.get(0, jnp.zeros_like(next(iter(outputs.values()))))
  odd = outputs.get(1, jnp.zeros_like(even))
  last = (even - odd)[:, : features // 2][:, ::-1]
  return jnp.concatenate([even + odd, last], axis=1)


def _product_of(
  blocks: Blocks,
  shape: tuple[int, int],
  halves: bool,
  precision: jax.lax.PrecisionLike,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """x, S ↦ x Σ LᵀSR of blocks, at the first half of places or at all."""
  if planned_platform() != 'tpu':
    return lambda x, s: jnp.dot(
      x,
      sum_of_blocks(
        blocks._replace(coefficients=_wide(s)),
        shape,
        'dct',
        None,
        False,
        (halves, halves),
      ).astype(x.dtype),
      precision=precision,
    )
  from spectral_jax.core import panels  # here: Pallas is slow to import

  def bases(dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    # Made again in the backward pass: a closure over them would keep them.
    left, right = (
      basis_rows(
        'dct', size, rows, jnp.float32, (size + 1) // 2 if halves else None
      ).astype(dtype)
      for size, rows in zip(shape, blocks[1:], strict=True)
    )
    return left, right

  @jax.custom_vjp
  def product(x: jax.Array, s: jax.Array) -> jax.Array:
    return panels.multiply(x, s, *bases(x.dtype), precision)

  def forward(x: jax.Array, s: jax.Array) -> tuple[jax.Array, Any]:
    return product(x, s), (x, s)

  def backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    x, s = saved
    left, right = bases(x.dtype)
    return (
      panels.multiply(gradient, s.swapaxes(1, 2), right, left, precision),
      panels.project(x, gradient, left, right, precision),
    )

  product.defvjp(forward, backward)
  return lambda x, s: product(*_alike(x, s))


def _alike(*arrays: jax.Array) -> list[jax.Array]:
  """Marks each as varying over the devices of a `shard_map` if any does.

  Gradients are then summed over devices where the marks are put on.
  """
  axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
  return [
    jax.lax.pcast(array, tuple(frozenset().union(*axes) - own), to='varying')
    for array, own in zip(arrays, axes, strict=True)
  ]


def _wide(array: jax.Array) -> jax.Array:
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))
