"""Which K of the N×M coefficients of a kernel are stored, and in which order.

Shapes: N rows (input frequencies) and M columns (output frequencies) of the
plane; K stored coefficients; B blocks of R×C coefficients.
"""

import dataclasses
import functools
import numbers

import numpy as np

from spectral_jax.core.hashing import mix

KINDS = ('lowpass', 'block', 'random', 'strided', 'band')
_MOST = 2**31 - 1  # positions are int32


@dataclasses.dataclass(frozen=True)
class Selection:
  """K positions on the N×M plane of 2D DCT coefficients.

  Kinds:
    `lowpass`: the lowest frequencies, (i + ½)/N + (j + ½)/M first: a triangle
      in the corner. The choice of the paper's version 1 ("zigzag").
    `block`: the lowest frequencies by the larger of the two: a rectangle in the
      corner (its last row and column are partly filled where K asks for it).
    `random`: K positions drawn by a hash of `seed`. No bound on the rank.
    `strided`: the K = N·M/b positions with i ≡ j + o (mod b), for b dividing N
      and M, o drawn by a hash of `seed`: b full blocks, each on its own strided
      frequencies, so that nothing is gathered and the rank is not bounded.
    `band`: neighbouring diagonals, wrapped around the plane, from an offset
      drawn by a hash of `seed`: every row and column holds as many positions as
      every other (to within one diagonal). No bound on the rank; any K.

  Positions are nested: those of a smaller K (same kind, shape and seed) are the
  first of a larger one; for `strided` they are a subset where the larger
  K's b divides the smaller's: one seed's offsets then agree modulo b.

  Attributes:
    kind: one of `KINDS`.
    shape: (N, M).
    count: K, 1 to N·M.
    seed: draws `random` positions and the offset of `strided` and `band`; 0 to
      2³² − 1.

  Raises:
    ValueError: names the field, what was expected, and what was got.

  Example:
    >>> selection = Selection.of('lowpass', (4, 4), keep=0.25)
    >>> selection.count, selection.positions.tolist()
    (4, [0, 1, 4, 2])
    >>> selection.rank_bound
    2
  """

  kind: str
  shape: tuple[int, int]
  count: int
  seed: int = 0

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      raise ValueError(
        f'selection: expected one of {", ".join(KINDS)}, got {self.kind!r}.'
      )
    _check_shape(self.shape)
    if not isinstance(self.seed, numbers.Integral) or not (
      0 <= self.seed < 2**32
    ):
      raise ValueError(f'seed: expected 0 to 2³² − 1, got {self.seed}.')
    whole = isinstance(self.count, numbers.Integral)
    if not whole or not 1 <= self.count <= self.size:
      raise ValueError(
        f'keep: expected 1 to {self.size} coefficients of a '
        f'{self.shape[0]}×{self.shape[1]} kernel, got {self.count}.'
      )
    if self.kind == 'strided':
      b = self.stride
      if b * self.count != self.size or any(s % b for s in self.shape):
        raise ValueError(
          'keep: a strided selection stores 1/b of the coefficients, b '
          f'dividing both sizes of the {self.shape[0]}×{self.shape[1]} kernel; '
          f'got {self.count} of {self.size}. Take such a b, or another '
          'selection.'
        )

  @classmethod
  def of(
    cls, kind: str, shape: tuple[int, int], keep: float, seed: int = 0
  ) -> 'Selection':
    """Selects by `keep`: a fraction (float, 0 < keep ≤ 1) or a count (int)."""
    whole = isinstance(keep, numbers.Integral)
    if whole and not isinstance(keep, bool):
      return cls(kind, shape, int(keep), seed)
    if whole or not isinstance(keep, numbers.Real) or not 0 < keep <= 1:
      raise ValueError(
        'keep: expected a fraction above 0 and up to 1.0, or a whole number of '
        f'coefficients, got {keep!r}.'
      )
    _check_shape(shape)
    size = shape[0] * shape[1]
    return cls(kind, shape, max(1, round(float(keep) * size)), seed)

  @property
  def size(self) -> int:
    """N·M."""
    return self.shape[0] * self.shape[1]

  @property
  def fraction(self) -> float:
    """K / (N·M)."""
    return self.count / self.size

  @property
  def stride(self) -> int:
    """The modulus b of `strided`; 1 for all other kinds."""
    return round(self.size / self.count) if self.kind == 'strided' else 1

  @property
  def offset(self) -> int:
    """Drawn by the seed: o of `strided`, the first place of `band`; else 0."""
    end = {'strided': self.stride, 'band': max(self.shape)}.get(self.kind, 1)
    return int(mix(np.array([self.seed]))[0] % np.uint64(end))

  @property
  def layout(self) -> tuple[int, ...]:
    """Shape of the stored parameter: [B, R, C] for `strided`, else [K]."""
    if self.kind != 'strided':
      return (self.count,)
    b = self.stride
    return (b, self.shape[0] // b, self.shape[1] // b)

  @functools.cached_property
  def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
    """The blocks that hold all positions: rows [B, R] and columns [B, C].

    `strided` has B = b blocks, all of them stored; the others have one, their
    bounding box, which the K coefficients fill in part.
    """
    if self.kind == 'strided':
      b = self.stride
      block_Bx1 = np.arange(b)[:, None]
      rows_BxR = block_Bx1 + b * np.arange(self.shape[0] // b)[None, :]
      columns_BxC = (block_Bx1 - self.offset) % b + b * np.arange(
        self.shape[1] // b
      )[None, :]
      return rows_BxR, columns_BxC
    i_K, j_K = np.unravel_index(self.positions, self.shape)
    return np.arange(i_K.max() + 1)[None, :], np.arange(j_K.max() + 1)[None, :]

  @property
  def positions(self) -> np.ndarray:
    """The K positions i·M + j, int32, in the order of the stored layout."""
    return _positions(self)

  @functools.cached_property
  def rank_bound(self) -> int:
    """The largest rank that any kernel with these coefficients can have.

    The DCT is orthonormal, so the rank is that of the plane: at most the
    largest number of positions of which no two share a row or a column.
    """
    import scipy.sparse  # here, since it is slow to import and seldom wanted

    i_K, j_K = np.unravel_index(self.positions, self.shape)
    pattern = scipy.sparse.csr_array(
      (np.ones(self.count, np.int8), (i_K, j_K)), shape=self.shape
    )
    matching = scipy.sparse.csgraph.maximum_bipartite_matching(pattern)
    return int(np.sum(matching >= 0))

  @property
  def update_scale(self) -> float:
    """How much longer than a dense kernel's an optimizer's step must be.

    A direction projected onto a scattered fraction r of an orthonormal basis
    keeps r of its effect, so the step is 1/r as long. A contiguous corner
    gained nothing by it.
    """
    contiguous = self.kind in ('lowpass', 'block')
    return 1.0 if contiguous else 1 / self.fraction


def _check_shape(shape: tuple[int, int]) -> None:
  whole = all(isinstance(size, numbers.Integral) for size in shape)
  if not whole or len(shape) != 2 or min(shape) < 1:
    raise ValueError(f'shape: expected two positive sizes, got {shape}.')
  if shape[0] * shape[1] > _MOST:
    raise ValueError(
      f'shape: expected at most {_MOST:,} coefficients, got '
      f'{shape[0]}×{shape[1]}.'
    )


@functools.lru_cache(maxsize=256)
def _positions(selection: Selection) -> np.ndarray:
  n, m = selection.shape
  if selection.kind == 'strided':
    rows_BxR, columns_BxC = selection.frequencies
    order = (rows_BxR[:, :, None] * m + columns_BxC[:, None, :]).ravel()
  elif selection.kind == 'random':
    # Sorting a hash is a permutation, whose first K are the nested choice.
    key = np.uint64(selection.seed) * np.uint64(2**32) + np.arange(
      n * m, dtype=np.uint64
    )
    order = np.argsort(mix(mix(key)), kind='stable')
  elif selection.kind == 'band':
    # One diagonal after another, each through every line of the shorter side.
    short, long = min(n, m), max(n, m)
    line_1xS = np.arange(short)[None, :]
    place_LxS = (
      line_1xS * long // short + selection.offset + np.arange(long)[:, None]
    )
    i_LxS, j_LxS = line_1xS, place_LxS % long
    if n > m:
      i_LxS, j_LxS = j_LxS, i_LxS
    order = (i_LxS * m + j_LxS).ravel()
  else:
    # Both frequencies in units of 1 / (2NM), exact in integers.
    i_Nx1 = (2 * np.arange(n, dtype=np.int64)[:, None] + 1) * m
    j_1xM = (2 * np.arange(m, dtype=np.int64)[None, :] + 1) * n
    both = i_Nx1 + j_1xM
    larger = np.maximum(i_Nx1, j_1xM)
    key_NxM = both if selection.kind == 'lowpass' else larger
    order = np.argsort(key_NxM.ravel(), kind='stable')
  kept = order[: selection.count].astype(np.int32)
  kept.setflags(write=False)  # it is cached
  return kept
