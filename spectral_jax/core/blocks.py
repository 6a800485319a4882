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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.platform import planned_platform
from spectral_jax.core.selection import Selection

# Of the rows of blocks, and of their columns: 0 for even frequencies, 1 for odd
# ones, and 0 along an axis that is not folded.
Parity = tuple[int, int]


class Blocks(NamedTuple):
  """Coefficients [B, R, C]; frequencies of rows [B, R] and columns [B, C]."""

  coefficients: jax.Array
  rows: np.ndarray
  columns: np.ndarray


class Pieces(NamedTuple):
  """P parities, and the blocks of each along an axis before all others."""

  parities: tuple[Parity, ...]
  blocks: Blocks

  def apart(self) -> dict[Parity, Blocks]:
    """The blocks of each parity by themselves."""
    return dict(zip(self.parities, map(Blocks, *self.blocks), strict=True))


def place(
  coefficients: jax.Array, selection: Selection, shape: tuple[int, int]
) -> jax.Array:
  """Lays the K coefficients out on the first rows and columns of the plane."""
  rows, columns = shape
  # On CPUs a scatter is the faster one, on TPUs it is slow.
  if planned_platform() == 'tpu' and _is_skew(selection):
    return _skewed(coefficients, selection)[:rows, :columns]
  i_K, j_K = divmod(selection.positions, selection.shape[1])
  flat = jnp.zeros(rows * columns, coefficients.dtype)
  flat = flat.at[i_K * columns + j_K].set(
    coefficients.ravel(), unique_indices=True, mode='promise_in_bounds'
  )
  return flat.reshape(rows, columns)


def _is_skew(selection: Selection) -> bool:
  short, long = sorted(selection.shape)
  return selection.kind == 'band' and long % short == 0


def _skewed(coefficients_K: jax.Array, selection: Selection) -> jax.Array:
  """The plane [N, M] of a band of which each line begins L/S after the last.

  L and S are the longer and the shorter side, D is the number of diagonals, and
  W = L + D. Each of the S lines is padded to W + L/S numbers, and all of them
  are read again as lines of W, so that each begins L/S later than the last.
  """
  short, long = sorted(selection.shape)
  step, diagonals = long // short, -(-selection.count // short)
  padded = jnp.pad(coefficients_K, (0, diagonals * short - selection.count))
  line_SxD = padded.reshape(diagonals, short).T
  width = long + diagonals
  apart = jnp.pad(line_SxD, ((0, 0), (0, long + step))).ravel()
  skewed_SxW = apart[: short * width].reshape(short, width)
  around = skewed_SxW[:, :diagonals] + skewed_SxW[:, long:]
  plane_SxL = jnp.concatenate([around, skewed_SxW[:, diagonals:long]], axis=1)
  plane_SxL = jnp.roll(plane_SxL, selection.offset, axis=1)
  return plane_SxL if selection.shape[0] == short else plane_SxL.T


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
) -> Pieces:
  """The blocks of each parity of frequencies, along the folded axes."""
  rows, columns = selection.frequencies
  if len(rows) > 1:
    # Of an even stride, if any axis is folded: every other block is alike.
    parts = 1 + any(folds)

    def in_turn(stored: Any) -> Any:
      return stored.reshape(-1, parts, *stored.shape[1:]).swapaxes(0, 1)

    blocks = Blocks(*map(in_turn, (coefficients, rows, columns)))
  else:
    box_RxC = (
      coefficients[0]
      if selection.kind == 'strided'
      else place(coefficients, selection, (rows.size, columns.size))
    )
    blocks = _split(box_RxC, folds)
  parities = tuple(
    (int(folds[0] and i % 2), int(folds[1] and j % 2))
    for i, j in zip(blocks.rows[:, 0, 0], blocks.columns[:, 0, 0], strict=True)
  )
  return Pieces(parities, blocks)


def _split(box_RxC: jax.Array, folds: Sequence[bool]) -> Blocks:
  """The lowest R×C frequencies by parity, each filled up to one shape."""
  up, across = (
    2 if fold and size > 1 else 1
    for fold, size in zip(folds, box_RxC.shape, strict=True)
  )
  r, c = box_RxC.shape
  padded = jnp.pad(box_RxC, ((0, r % up), (0, c % across)))
  # Rows, then columns, and no slices with a stride: of these a TPU's compiler
  # makes a large program, slowly, and of one transposition large temporaries.
  by_rows = padded.reshape(-1, up, padded.shape[1]).swapaxes(0, 1)
  apart = by_rows.reshape(*by_rows.shape[:2], -1, across)
  apart = apart.swapaxes(2, 3).swapaxes(1, 2)
  # Zeros are of any frequency; that of the first will do.
  rows, columns = (
    (np.arange(filled) % size).reshape(-1, parts).T
    for filled, size, parts in zip(
      padded.shape, (r, c), (up, across), strict=True
    )
  )
  return Blocks(
    apart.reshape(up * across, 1, *apart.shape[2:]),
    np.repeat(rows, across, axis=0)[:, None],
    np.tile(columns, (up, 1))[:, None],
  )
