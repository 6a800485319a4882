"""The inverse 2D DCT by matrix products: W = Σ LᵀSR over blocks S.

Of a piece, whose frequencies have one parity, a quarter of the kernel is
computed, and reflected (see `blocks`). Where a block is split into pieces this
halves both products; of `strided` with an even stride the second one becomes a
quarter.

Shapes: kernel [N, M]; P pieces of B blocks of R×C coefficients; K is B·R or
B·C.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.blocks import (
  Parity,
  Pieces,
  by_parity,
  foldable,
  quarters,
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
  pieces = by_parity(coefficients, selection, folds)
  kernels = sums_of_blocks(pieces, selection.shape, basis, part, in_bf16, folds)
  return _unfold(kernels, selection.shape, folds)


def multiplications(selection: Selection, basis: str = 'dct') -> int:
  """How many the products of `kernel_by_gemm` take, for a whole kernel."""
  (b, r), (_, c) = (f.shape for f in selection.frequencies)
  n, m = selection.shape
  if not foldable(selection, basis):
    return b * min(_columns_first(r, c, n, m), _columns_first(c, r, m, n))
  n, m = (n + 1) // 2, (m + 1) // 2
  if b == 1:  # split into pieces, which are filled up to one shape
    b, r, c = quarters(selection), (r + 1) // 2, (c + 1) // 2
  return b * min(_columns_first(r, c, n, m), _columns_first(c, r, m, n))


def _columns_first(r: int, c: int, n: int, m: int) -> int:
  """Multiplications of Lᵀ (S R); of (LᵀS) R with rows for columns."""
  return r * (c + n) * m


def sums_of_blocks(
  pieces: Pieces,
  shape: tuple[int, int],
  basis: str,
  part: Part | None,
  in_bf16: bool,
  folds: Sequence[bool],
) -> dict[Parity, jax.Array]:
  """The kernel of each piece, or a part; of a folded axis the first half."""
  parities, (coefficients, *frequencies) = pieces
  left, right = (
    basis_rows(
      basis, size, each, coefficients.dtype, (size + 1) // 2 if fold else None
    )
    for size, each, fold in zip(shape, frequencies, folds, strict=True)
  )
  if part is not None and part.axis == 0:
    left = part.cut(left, -1)
  elif part is not None:
    right = part.cut(right, -1)
  # Together: each product has its cost, for a TPU's compiler above all.
  multiply = _sums_in_panels if planned_platform() == 'tpu' else _sums
  kernels = multiply(coefficients, left, right, in_bf16)
  return dict(zip(parities, kernels, strict=True))


def _sums(
  s_PxBxRxC: jax.Array,
  left_PxBxRxN: jax.Array,
  right_PxBxCxM: jax.Array,
  in_bf16: bool,
) -> jax.Array:
  """Σ LᵀSR over the blocks of each piece, [P, N, M]."""
  (p, b, r, n), (*_, c, m) = left_PxBxRxN.shape, right_PxBxCxM.shape
  if _columns_first(r, c, n, m) <= _columns_first(c, r, m, n):
    half_PxBxRxM = _product(
      'pbrc,pbcm->pbrm', s_PxBxRxC, right_PxBxCxM, in_bf16
    )
    left_PxKxN = left_PxBxRxN.reshape(p, b * r, n)
    half_PxKxM = half_PxBxRxM.reshape(p, b * r, m)
    return _product('pkn,pkm->pnm', left_PxKxN, half_PxKxM, in_bf16)
  half_PxNxBxC = _product('pbrn,pbrc->pnbc', left_PxBxRxN, s_PxBxRxC, in_bf16)
  half_PxNxK = half_PxNxBxC.reshape(p, n, b * c)
  right_PxKxM = right_PxBxCxM.reshape(p, b * c, m)
  return _product('pnk,pkm->pnm', half_PxNxK, right_PxKxM, in_bf16)


def _sums_in_panels(
  s_PxBxRxC: jax.Array,
  left_PxBxRxN: jax.Array,
  right_PxBxCxM: jax.Array,
  in_bf16: bool,
) -> jax.Array:
  """The same, a panel of rows at a time, for a TPU's compiler."""
  (p, b, r, n), (*_, c, m) = left_PxBxRxN.shape, right_PxBxCxM.shape
  if _columns_first(r, c, n, m) > _columns_first(c, r, m, n):
    return _sums_in_panels(
      s_PxBxRxC.swapaxes(2, 3), right_PxBxCxM, left_PxBxRxN, in_bf16
    ).swapaxes(1, 2)
  half_PBxRxM = _product_in_panels(
    s_PxBxRxC.reshape(p * b, r, c), right_PxBxCxM.reshape(p * b, c, m), in_bf16
  )
  kernel_PxMxN = _product_in_panels(
    half_PBxRxM.reshape(p, b * r, m).swapaxes(1, 2),
    left_PxBxRxN.reshape(p, b * r, n),
    in_bf16,
  )
  return kernel_PxMxN.swapaxes(1, 2)


def _product_in_panels(
  rows_BxRxC: jax.Array, basis_BxCxM: jax.Array, in_bf16: bool
) -> jax.Array:
  """Products [B, R, M], a panel of a block's rows at a time, in one loop.

  A TPU's compiler is slow with products of the highest precision, the slower
  the more rows one has; this is one product of few rows.
  """
  b, r, c = rows_BxRxC.shape
  whole, panel = _ROWS[in_bf16]
  if in_bf16:  # here, not in each panel again
    rows_BxRxC, basis_BxCxM = (
      x.astype(jnp.bfloat16) for x in (rows_BxRxC, basis_BxCxM)
    )
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
  if in_bf16 and planned_platform() == 'cpu':
    # jaxlib has no CPU kernel for some products of bfloat16 with a batch.
    left, right = (jax.lax.reduce_precision(x, 8, 7) for x in (left, right))
    in_bf16 = False
  if not in_bf16:
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum(subscripts, left, right, precision=highest)
  return jnp.einsum(
    subscripts,
    left.astype(jnp.bfloat16),
    right.astype(jnp.bfloat16),
    precision=jax.lax.Precision.DEFAULT,  # of the gradients: one pass, too
    preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
  )
