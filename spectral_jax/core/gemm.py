"""The inverse 2D DCT by matrix products: W = Σ LᵀSR over blocks S.

A cosine of even frequency is symmetric about the middle of its places, one of
odd frequency antisymmetric. A block whose rows are all even or all odd, and
whose columns are, is therefore known from a quarter of its kernel: the rest are
reflections, maybe negative. Blocks that mix the two are split by their rows'
and columns' parity, which halves both products; those of `strided` with an even
stride mix nothing, so that the second product is a quarter.

Shapes: kernel [N, M]; B blocks of R×C coefficients.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.part import Part
from spectral_jax.core.platform import planned_platform
from spectral_jax.core.selection import Selection


class Blocks(NamedTuple):
  """Coefficients [B, R, C]; frequencies of rows [B, R] and columns [B, C]."""

  coefficients: jax.Array
  rows: np.ndarray
  columns: np.ndarray


# The most rows of a product at a time, where that matters.
_PANEL = 256

# Of a block's rows, and of its columns: 0 for even frequencies, 1 for odd.
Parity = tuple[int, int]


def place(
  coefficients: jax.Array, selection: Selection, shape: tuple[int, int]
) -> jax.Array:
  """Lays the K coefficients out on the first rows and columns of the plane."""
  rows, columns = shape
  i_K, j_K = divmod(selection.positions, selection.shape[1])
  flat = jnp.zeros(rows * columns, coefficients.dtype)
  flat = flat.at[i_K * columns + j_K].set(
    coefficients.ravel(), unique_indices=True, mode='promise_in_bounds'
  )
  return flat.reshape(rows, columns)


def blocks_of(coefficients: jax.Array, selection: Selection) -> Blocks:
  """The stored blocks, or the bounding box that the coefficients lie in."""
  rows, columns = selection.frequencies
  if len(selection.layout) != 3:
    box = (rows.size, columns.size)
    coefficients = place(coefficients, selection, box)[None]
  return Blocks(coefficients, rows, columns)


def kernel_by_gemm(
  coefficients: jax.Array,
  selection: Selection,
  basis: str,
  part: Part | None,
  in_bf16: bool,
) -> jax.Array:
  """Rebuilds a kernel [N, M], or a part of it, from float32 coefficients.

  Args:
    coefficients: in the layout of the selection.
    selection: their positions.
    basis: `dct` or `orthonormal`.
    part: the rows or columns wanted; None for all.
    in_bf16: whether to round factors to bfloat16; sums are never.
  """
  halves = foldable(selection, basis)
  folds = tuple(
    halves and (part is None or part.axis != axis) for axis in (0, 1)
  )
  blocks = blocks_of(coefficients, selection)
  pieces = {
    parity: sum_of_blocks(own, selection.shape, basis, part, in_bf16, folds)
    for parity, own in by_parity(blocks, folds).items()
  }
  return _unfold(pieces, selection.shape, folds)


def multiplications(selection: Selection, basis: str = 'dct') -> int:
  """How many the products of `kernel_by_gemm` take, for a whole kernel."""
  (b, r), (_, c) = (f.shape for f in selection.frequencies)
  n, m = selection.shape
  if not foldable(selection, basis):
    return b * min(_columns_first(r, c, n, m), _columns_first(c, r, m, n))
  n, m = (n + 1) // 2, (m + 1) // 2
  pieces = [(r, c)] * b
  if b == 1:
    pieces = [
      (p, q) for p in (r - r // 2, r // 2) for q in (c - c // 2, c // 2)
    ]
  return sum(
    min(_columns_first(r, c, n, m), _columns_first(c, r, m, n))
    for r, c in pieces
  )


def _columns_first(r: int, c: int, n: int, m: int) -> int:
  """Multiplications of Lᵀ (S R); of (LᵀS) R with rows for columns."""
  return r * (c + n) * m


def foldable(selection: Selection, basis: str) -> bool:
  """Whether each block, or each part of the only one, has one parity.

  Blocks of an odd stride mix parities, each in its own way.
  """
  blocks = len(selection.frequencies[0])
  return basis == 'dct' and (blocks == 1 or blocks % 2 == 0)


def quarters(selection: Selection) -> int:
  """How many of the four quarters of a foldable kernel are not zero."""
  (b, r), (_, c) = (f.shape for f in selection.frequencies)
  return 2 if b > 1 else min(r, 2) * min(c, 2)


def by_parity(blocks: Blocks, folds: Sequence[bool]) -> dict[Parity, Blocks]:
  """Blocks by the parity of their frequencies, along the folded axes."""
  coefficients, rows, columns = blocks
  if not any(folds):
    return {(0, 0): blocks}
  if len(rows) > 1:  # of an even stride: a block's frequencies are alike
    own = [
      Blocks(coefficients[p::2], rows[p::2], columns[p::2]) for p in (0, 1)
    ]
  else:
    up, across = (
      [slice(0, None, 2), slice(1, None, 2)] if fold else [slice(None)]
      for fold in folds
    )
    own = [
      Blocks(coefficients[:, r, c], rows[:, r], columns[:, c])
      for r in up
      for c in across
    ]
  return {
    (
      int(folds[0] and b.rows[0, 0] % 2),
      int(folds[1] and b.columns[0, 0] % 2),
    ): b
    for b in own
    if b.coefficients.size
  }


def sum_of_blocks(
  blocks: Blocks,
  shape: tuple[int, int],
  basis: str,
  part: Part | None,
  in_bf16: bool,
  folds: Sequence[bool],
) -> jax.Array:
  """The kernel of blocks, or a part of it; of a folded axis the first half."""
  block_BxRxC, *frequencies = blocks
  left_BxRxN, right_BxCxM = (
    basis_rows(
      basis, size, rows, block_BxRxC.dtype, (size + 1) // 2 if fold else None
    )
    for size, rows, fold in zip(shape, frequencies, folds, strict=True)
  )
  if part is not None and part.axis == 0:
    left_BxRxN = part.cut(left_BxRxN, -1)
  elif part is not None:
    right_BxCxM = part.cut(right_BxCxM, -1)
  (_, r, n), (_, c, m) = left_BxRxN.shape, right_BxCxM.shape
  columns_first = _columns_first(r, c, n, m) <= _columns_first(c, r, m, n)
  if planned_platform() == 'tpu' and not in_bf16:
    if columns_first:
      return _sum_in_panels(left_BxRxN, block_BxRxC, right_BxCxM)
    block_BxCxR = block_BxRxC.swapaxes(1, 2)
    return _sum_in_panels(right_BxCxM, block_BxCxR, left_BxRxN).T
  if columns_first:
    half_BxRxM = _product('brc,bcm->brm', block_BxRxC, right_BxCxM, in_bf16)
    return _product('brn,brm->nm', left_BxRxN, half_BxRxM, in_bf16)
  half_BxNxC = _product('brn,brc->bnc', left_BxRxN, block_BxRxC, in_bf16)
  return _product('bnc,bcm->nm', half_BxNxC, right_BxCxM, in_bf16)


def _sum_in_panels(
  left_BxRxN: jax.Array, block_BxRxC: jax.Array, right_BxCxM: jax.Array
) -> jax.Array:
  """Σ LᵀSR, SR first; what is no basis has its rows in panels."""
  half_BxRxM = _product_in_panels(block_BxRxC, right_BxCxM)
  half_1xBRxM, left_1xBRxN = (
    x.reshape(1, -1, x.shape[-1]) for x in (half_BxRxM, left_BxRxN)
  )
  return _product_in_panels(half_1xBRxM.swapaxes(1, 2), left_1xBRxN)[0].T


def _product_in_panels(
  rows_BxRxC: jax.Array, basis_BxCxM: jax.Array
) -> jax.Array:
  """Products [B, R, M], a panel of their rows at a time.

  The more rows a product of the highest precision has, the longer it takes a
  TPU's compiler.
  """

  def product(rows_BxRxC: jax.Array) -> jax.Array:
    return _product('brc,bcm->brm', rows_BxRxC, basis_BxCxM, in_bf16=False)

  b, r, c = rows_BxRxC.shape
  panels = -(-r // _PANEL)
  if panels == 1:
    return product(rows_BxRxC)
  padded = jnp.pad(rows_BxRxC, ((0, 0), (0, -r % panels), (0, 0)))
  products = jax.lax.map(
    product, jnp.moveaxis(padded.reshape(b, panels, -1, c), 1, 0)
  )
  return jnp.moveaxis(products, 0, 1).reshape(b, -1, products.shape[-1])[:, :r]


def _unfold(
  pieces: Mapping[Parity, jax.Array],
  shape: tuple[int, int],
  folds: Sequence[bool],
) -> jax.Array:
  """The sum of pieces by parity, and of their reflections along folded axes."""

  def added(below: bool, right: bool) -> jax.Array:
    """Of one side of each fold, reflected back onto the first."""
    total = None
    for (p, q), piece in pieces.items():
      negative = (below and p) != (right and q)
      if total is None:
        total = -piece if negative else piece
      else:
        total = total - piece if negative else total + piece
    assert total is not None
    return total

  def across(below: bool) -> jax.Array:
    left = added(below, right=False)
    if not folds[1]:
      return left
    right = added(below, right=True)[:, : shape[1] // 2][:, ::-1]
    return jnp.concatenate([left, right], axis=1)

  if not folds[0]:
    return across(below=False)
  upper, lower = across(below=False), across(below=True)
  return jnp.concatenate([upper, lower[: shape[0] // 2][::-1]])


def _product(
  subscripts: str, left: jax.Array, right: jax.Array, in_bf16: bool
) -> jax.Array:
  """A product of float32 arrays, the factors maybe rounded, the sums not."""
  if not in_bf16:
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum(subscripts, left, right, precision=highest)
  return jnp.einsum(
    subscripts,
    left.astype(jnp.bfloat16),
    right.astype(jnp.bfloat16),
    preferred_element_type=left.dtype,
  )
