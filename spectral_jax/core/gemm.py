"""The inverse 2D DCT by matrix products: W = Σ LᵀSR over blocks S.

Of a piece, whose frequencies have one parity, a quarter of the kernel is
computed, and reflected (see `blocks`). Where a block is split into pieces this
halves both products; of `strided` with an even stride the second one becomes a
quarter.

Shapes: kernel [N, M]; P pieces of B blocks of R×C coefficients.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.blocks import (
  Blocks,
  Parity,
  blocks_of,
  by_parity,
  foldable,
)
from spectral_jax.core.part import Part
from spectral_jax.core.platform import planned_platform
from spectral_jax.core.selection import Selection

# Of a product on a TPU, by whether it is in bfloat16: the most rows that are
# multiplied at once, and those of a panel where there are more.
_ROWS = {False: (256, 128), True: (1024, 1024)}


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
  pieces = sums_of_blocks(
    by_parity(blocks, folds), selection.shape, basis, part, in_bf16, folds
  )
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


def sums_of_blocks(
  pieces: Mapping[Parity, Blocks],
  shape: tuple[int, int],
  basis: str,
  part: Part | None,
  in_bf16: bool,
  folds: Sequence[bool],
) -> dict[Parity, jax.Array]:
  """The kernel of each piece, or a part; of a folded axis the first half."""
  alike: dict[tuple[int, ...], list[Parity]] = {}
  for parity, blocks in pieces.items():
    alike.setdefault(blocks.coefficients.shape, []).append(parity)
  sums: dict[Parity, jax.Array] = {}
  for parities in alike.values():
    coefficients, rows, columns = zip(
      *(pieces[parity] for parity in parities), strict=True
    )
    stacked = Blocks(jnp.stack(coefficients), np.stack(rows), np.stack(columns))
    kernels = _sums(stacked, shape, basis, part, in_bf16, folds)
    sums |= zip(parities, kernels, strict=True)
  return sums


def _sums(
  pieces: Blocks,
  shape: tuple[int, int],
  basis: str,
  part: Part | None,
  in_bf16: bool,
  folds: Sequence[bool],
) -> jax.Array:
  """The kernels [P, N, M] of stacked pieces."""
  s_PxBxRxC, *frequencies = pieces
  left_PxBxRxN, right_PxBxCxM = (
    basis_rows(
      basis, size, rows, s_PxBxRxC.dtype, (size + 1) // 2 if fold else None
    )
    for size, rows, fold in zip(shape, frequencies, folds, strict=True)
  )
  if part is not None and part.axis == 0:
    left_PxBxRxN = part.cut(left_PxBxRxN, -1)
  elif part is not None:
    right_PxBxCxM = part.cut(right_PxBxCxM, -1)
  (*_, r, n), (*_, c, m) = left_PxBxRxN.shape, right_PxBxCxM.shape
  if _columns_first(r, c, n, m) <= _columns_first(c, r, m, n):
    return _columns_then_rows(left_PxBxRxN, s_PxBxRxC, right_PxBxCxM, in_bf16)
  return _columns_then_rows(
    right_PxBxCxM, s_PxBxRxC.swapaxes(2, 3), left_PxBxRxN, in_bf16
  ).swapaxes(1, 2)


def _columns_then_rows(
  left_PxBxRxN: jax.Array,
  s_PxBxRxC: jax.Array,
  right_PxBxCxM: jax.Array,
  in_bf16: bool,
) -> jax.Array:
  """Σ Lᵀ(SR) over the blocks of each piece, [P, N, M]."""
  if planned_platform() != 'tpu':
    half_PxBxRxM = _product(
      'pbrc,pbcm->pbrm', s_PxBxRxC, right_PxBxCxM, in_bf16
    )
    return _product('pbrn,pbrm->pnm', left_PxBxRxN, half_PxBxRxM, in_bf16)
  p, b, r, n = left_PxBxRxN.shape
  s_PBxRxC, right_PBxCxM = (
    x.reshape(p * b, *x.shape[2:]) for x in (s_PxBxRxC, right_PxBxCxM)
  )
  half_PxBRxM = _product_in_panels(s_PBxRxC, right_PBxCxM, in_bf16).reshape(
    p, b * r, -1
  )
  left_PxBRxN = left_PxBxRxN.reshape(p, b * r, n)
  kernel_PxMxN = _product_in_panels(
    half_PxBRxM.swapaxes(1, 2), left_PxBRxN, in_bf16
  )
  return kernel_PxMxN.swapaxes(1, 2)


def _product_in_panels(
  rows_BxRxC: jax.Array, basis_BxCxM: jax.Array, in_bf16: bool
) -> jax.Array:
  """Products [B, R, M], a panel of a block's rows at a time.

  A TPU's compiler takes the longer for a product of the highest precision the
  more rows it has, and as long for each product again.
  """
  b, r, c = rows_BxRxC.shape
  whole, panel = _ROWS[in_bf16]
  if r <= whole:
    return _product('brc,bcm->brm', rows_BxRxC, basis_BxCxM, in_bf16)
  panels = -(-r // panel)

  # What is kept for the gradient are all bases once, not one for each panel.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def product(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
    rows_RxC, block = operands
    basis_CxM = jax.lax.dynamic_index_in_dim(basis_BxCxM, block, keepdims=False)
    return _product('rc,cm->rm', rows_RxC, basis_CxM, in_bf16)

  padded = jnp.pad(rows_BxRxC, ((0, 0), (0, -r % panels), (0, 0)))
  products = jax.lax.map(
    product,
    (padded.reshape(b * panels, -1, c), jnp.repeat(jnp.arange(b), panels)),
  )
  return products.reshape(b, -1, products.shape[-1])[:, :r]


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
