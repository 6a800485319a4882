"""The blocks of coefficients that a kernel is made of, and their parities.

A cosine of even frequency is symmetric about the middle of its places, one of
odd frequency antisymmetric. A block whose rows are all even or all odd, and
whose columns are, is therefore known from a quarter of its kernel: the rest are
reflections, maybe negative. A single block is split by its rows' and columns'
parity; those of `strided` with an even stride have one each, those with an odd
stride mix them in ways that cannot be folded.

Shapes: kernel [N, M]; P pieces of B blocks of R×C coefficients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.selection import Selection


class Blocks(NamedTuple):
  """Coefficients [B, R, C]; frequencies of rows [B, R] and columns [B, C].

  Stacked pieces have an axis before these, P.
  """

  coefficients: jax.Array
  rows: np.ndarray
  columns: np.ndarray


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


def _blocks_of(coefficients: jax.Array, selection: Selection) -> Blocks:
  """The stored blocks, or the bounding box that the coefficients lie in."""
  rows, columns = selection.frequencies
  if len(selection.layout) != 3:
    box = (rows.size, columns.size)
    coefficients = place(coefficients, selection, box)[None]
  return Blocks(coefficients, rows, columns)


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


def by_parity(
  coefficients: jax.Array, selection: Selection, folds: Sequence[bool]
) -> dict[Parity, Blocks]:
  """The blocks of each parity of frequencies, along the folded axes."""
  blocks = _blocks_of(coefficients, selection)
  if not any(folds):
    return {(0, 0): blocks}
  if len(blocks.rows) > 1:  # of an even stride: a block's frequencies are alike
    stored, rows, columns = blocks
    pieces = [Blocks(stored[p::2], rows[p::2], columns[p::2]) for p in (0, 1)]
  else:
    pieces = _split(blocks, *(2 if fold else 1 for fold in folds))
  return {
    (
      int(folds[0] and piece.rows[0, 0] % 2),
      int(folds[1] and piece.columns[0, 0] % 2),
    ): piece
    for piece in pieces
    if piece.coefficients.size
  }


def _split(blocks: Blocks, up: int, across: int) -> list[Blocks]:
  """A single block's frequencies i mod `up` and j mod `across`, apart."""
  (plane_RxC,), rows, columns = blocks
  r, c = plane_RxC.shape
  padded = jnp.pad(plane_RxC, ((0, -r % up), (0, -c % across)))
  # Rows, then columns, and no slices with a stride: of these a TPU's compiler
  # makes a large program, slowly, and of one transposition large temporaries.
  by_rows = padded.reshape(-1, up, padded.shape[1]).swapaxes(0, 1)
  apart = by_rows.reshape(*by_rows.shape[:2], -1, across)
  apart = apart.swapaxes(2, 3).swapaxes(1, 2)
  pieces = []
  for p in range(up):
    for q in range(across):
      own = rows[:, p::up], columns[:, q::across]
      kept = apart[p, q, : own[0].size, : own[1].size]
      pieces.append(Blocks(kept[None], *own))
  return pieces


def stack(pieces: Sequence[Blocks]) -> Blocks:
  """Pieces along an axis of their own, filled up with zeros to one shape."""
  r, c = (
    max(sizes)
    for sizes in zip(*(p.coefficients.shape[1:] for p in pieces), strict=True)
  )

  def fill(piece: Blocks) -> Blocks:
    _, own_r, own_c = piece.coefficients.shape
    up, across = (0, r - own_r), (0, c - own_c)
    return Blocks(
      jnp.pad(piece.coefficients, ((0, 0), up, across)),
      np.pad(piece.rows, ((0, 0), up)),
      np.pad(piece.columns, ((0, 0), across)),
    )

  coefficients, rows, columns = zip(*map(fill, pieces), strict=True)
  return Blocks(jnp.stack(coefficients), np.stack(rows), np.stack(columns))
