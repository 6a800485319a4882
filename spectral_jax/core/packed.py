"""Scattered coefficients with a bit for each place in place of an index.

A product with inputs wants coefficients row by row of their plane, and to know
where they lie. Indices would double what is stored; a bit for each place of the
plane is 1/32 of a dense kernel. The plane is laid out panel by panel where it
meets the inputs, and never whole: x W = ((x C_Nᵀ) S) C_M, as in `factored`.

Shapes: T tokens; kernel [N, M]; R×C the bounding box of the K coefficients, and
W words of 32 bits that hold its columns; P rows of a panel.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.fast_dct import dct, idct
from spectral_jax.core.selection import Selection

_BITS = 32
# Numbers of a panel: few, and enough for a loop over panels to cost little.
_PANEL = 4096


class Packed(NamedTuple):
  """Coefficients row by row, and where they lie.

  Attributes:
    coefficients: [K], or a stack of such [..., K].
    bits_RxW: uint32; the least significant bit is the first column's.
    before_R: int32, the number of coefficients in the rows before each.
  """

  coefficients: jax.Array
  bits_RxW: jax.Array
  before_R: jax.Array


def pack(coefficients: jax.Array, selection: Selection) -> Packed:
  """Packs coefficients [..., *selection.layout]; any selection will do."""
  positions = selection.positions
  order = np.argsort(positions)
  stack = coefficients.shape[: coefficients.ndim - len(selection.layout)]
  flat = coefficients.reshape(*stack, selection.count)
  bits_RxW, before_R = _index(selection)
  return Packed(
    jnp.take(flat, order, axis=-1),
    jnp.broadcast_to(bits_RxW, (*stack, *bits_RxW.shape)),
    jnp.broadcast_to(before_R, (*stack, *before_R.shape)),
  )


def packed_shapes(selection: Selection) -> Packed:
  """Abstract arrays of what `pack` returns, without a stack."""
  return jax.eval_shape(
    functools.partial(pack, selection=selection),
    jax.ShapeDtypeStruct(selection.layout, jnp.float32),
  )


def _index(selection: Selection) -> tuple[np.ndarray, np.ndarray]:
  i_K, j_K = np.unravel_index(selection.positions, selection.shape)
  rows, columns = i_K.max() + 1, j_K.max() + 1
  words, panel = _sizes(int(columns))
  kept = np.zeros((-(-rows // panel) * panel, words * _BITS), np.uint8)
  kept[i_K, j_K] = 1
  packed = np.packbits(kept, axis=1, bitorder='little')
  counts_R = kept.sum(axis=1, dtype=np.int32)
  before_R = np.cumsum(counts_R, dtype=np.int32) - counts_R
  return packed.view('<u4').astype(np.uint32), before_R


def _sizes(columns: int) -> tuple[int, int]:
  """Words of a row, and rows of a panel."""
  words = -(-columns // _BITS)
  return words, max(1, _PANEL // (words * _BITS))


def packed_product(
  inputs_TxN: jax.Array,
  packed: Packed,
  features: int,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies inputs by the kernel of packed coefficients.

  The transforms are computed in float32 or better, the product between them in
  the dtype of the inputs.

  Args:
    inputs_TxN: floats.
    packed: of `pack`.
    features: M.
    precision: of the product, see `jax.lax.Precision`.

  Returns:
    Outputs [T, M], of that dtype.

  Example:
    >>> selection = Selection.of('lowpass', (4, 6), keep=0.5)
    >>> packed = pack(jnp.ones(selection.layout), selection)
    >>> packed_product(jnp.ones((2, 4)), packed, features=6).shape
    (2, 6)
  """
  dtype = inputs_TxN.dtype
  wide = jnp.promote_types(dtype, jnp.float32)
  tokens, n = inputs_TxN.shape
  rows, words = packed.bits_RxW.shape
  _, panel = _sizes(words * _BITS)
  frequencies_TxN = dct(inputs_TxN.astype(wide)).astype(dtype)
  pad = max(0, rows - n)  # of the last panel
  frequencies_TxR = jnp.pad(frequencies_TxN, ((0, 0), (0, pad)))[:, :rows]

  def add(index: jax.Array, outputs_TxC: jax.Array) -> jax.Array:
    start = index * panel
    panel_PxC = _lay_out(packed, start, panel).astype(dtype)
    part_TxP = jax.lax.dynamic_slice_in_dim(frequencies_TxR, start, panel, 1)
    return outputs_TxC + jnp.dot(
      part_TxP, panel_PxC, precision=precision, preferred_element_type=wide
    )

  outputs_TxC = jnp.zeros((tokens, words * _BITS), wide)
  outputs_TxC = jax.lax.fori_loop(0, rows // panel, add, outputs_TxC)
  spare = max(0, features - words * _BITS)
  outputs_TxM = jnp.pad(outputs_TxC, ((0, 0), (0, spare)))[:, :features]
  return idct(outputs_TxM).astype(dtype)


def _lay_out(packed: Packed, start: jax.Array, panel: int) -> jax.Array:
  """Rows of the plane [P, C], zeros where nothing is stored."""
  bits_PxW, before_P = (
    jax.lax.dynamic_slice_in_dim(each, start, panel)
    for each in (packed.bits_RxW, packed.before_R)
  )
  counts_PxW = jax.lax.population_count(bits_PxW).astype(jnp.int32)
  words_PxW = before_P[:, None] + jnp.cumsum(counts_PxW, axis=1) - counts_PxW
  place_1x1x32 = jnp.arange(_BITS, dtype=jnp.uint32)[None, None]
  bits_PxWx1 = bits_PxW[:, :, None]
  below_PxWx32 = bits_PxWx1 & ((jnp.uint32(1) << place_1x1x32) - 1)
  index_PxWx32 = words_PxW[:, :, None] + jax.lax.population_count(
    below_PxWx32
  ).astype(jnp.int32)
  values_PxWx32 = packed.coefficients.at[index_PxWx32].get(mode='clip')
  kept_PxWx32 = (bits_PxWx1 >> place_1x1x32) & 1
  return jnp.where(kept_PxWx32 == 1, values_PxWx32, 0).reshape(panel, -1)
