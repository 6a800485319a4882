"""The layer in one kernel a pass: W is rebuilt where it is multiplied.

On TPU a panel of W's columns at a time is rebuilt in on-chip memory and meets
all tokens there (`panels`); neither W nor its gradient is ever an array in the
device's memory, and nothing but inputs and coefficients is kept for the
backward pass. Inputs and outputs are folded, as `folded` does, so that panels
have half of W's rows, and for `strided` of an even stride half of the products
with tokens are none.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

from typing import Any

import jax
import jax.numpy as jnp

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.blocks import Blocks, by_parity, foldable
from spectral_jax.core.folded import by_halves, folded_product
from spectral_jax.core.platform import planned_platform
from spectral_jax.core.selection import Selection


def fused_product(
  inputs_TxN: jax.Array,
  coefficients: jax.Array,
  selection: Selection,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies inputs by the kernel of coefficients, which stays on the chip.

  What platform a program is for says `planned_for`, else JAX. Where it is no
  TPU, this is `folded_product`. On TPU there is no forward-mode derivative;
  vmap, remat and shard_map are as ever; inputs that a program splits over
  devices want the latter, as in `train.py`, for Pallas parts nothing by itself.

  Args:
    inputs_TxN: floats; on TPU float32 or bfloat16.
    coefficients: floats of shape `selection.layout`. On TPU all factors are
      rounded to the inputs' dtype, all sums are float32.
    selection: their positions, of the basis `dct`. Those that are no blocks
      are first laid out on their bounding box.
    precision: of the product with the inputs, see `jax.lax.Precision`; the
      kernel is rebuilt at the highest on TPUs, elsewhere as by `folded`.

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
  if planned_platform() != 'tpu':
    return folded_product(inputs_TxN, coefficients, selection, precision)

  halves = foldable(selection, 'dct')
  narrow = coefficients.astype(inputs_TxN.dtype)
  pieces = by_parity(narrow, selection, (halves, halves)).apart()

  def product(x: jax.Array, blocks: Blocks) -> jax.Array:
    return _multiply(x, blocks, selection.shape, halves, precision)

  return by_halves(inputs_TxN, pieces, selection, product)


def _multiply(
  inputs: jax.Array,
  blocks: Blocks,
  shape: tuple[int, int],
  halves: bool,
  precision: jax.lax.PrecisionLike,
) -> jax.Array:
  """The product with Σ LᵀSR of blocks, at half of the places or at all."""
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
  return product(*_alike(inputs, blocks.coefficients))


def _alike(*arrays: jax.Array) -> list[jax.Array]:
  """Marks each as varying over the devices of a `shard_map` if any does.

  Gradients are then summed over devices where the marks are put on.
  """
  axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
  return [
    jax.lax.pcast(array, tuple(frozenset().union(*axes) - own), to='varying')
    for array, own in zip(arrays, axes, strict=True)
  ]
