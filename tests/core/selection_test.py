"""Which coefficients are kept: how many, where, in which order, for ever."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.fft

from spectral_jax.core.selection import KINDS, Selection

UNEVEN = [(1, 7), (7, 1), (5, 5), (13, 29), (3, 64)]
# (shape, b), b dividing both sizes.
STRIDED = [((1, 7), 1), ((6, 9), 3), ((12, 18), 6), ((128, 8), 8)]


def of_every_kind(keep: float) -> list[Selection]:
  uneven = [
    Selection.of(kind, shape, keep)
    for kind in ('lowpass', 'block', 'random', 'band')
    for shape in UNEVEN
  ]
  return uneven + [
    Selection('strided', shape, shape[0] * shape[1] // b)
    for shape, b in STRIDED
  ]


@pytest.mark.parametrize('keep', [1, 0.1, 0.5, 1.0])
@pytest.mark.parametrize('kind', ['lowpass', 'block', 'random', 'band'])
@pytest.mark.parametrize('shape', UNEVEN)
def test_exactly_k_different_positions(
  shape: tuple[int, int], kind: str, keep: float
) -> None:
  size = shape[0] * shape[1]
  expected = keep if isinstance(keep, int) else max(1, round(keep * size))
  selection = Selection.of(kind, shape, keep)
  positions = selection.positions
  assert selection.count == expected
  assert selection.layout == (expected,)
  assert selection.fraction == expected / size
  assert positions.dtype == np.int32
  assert positions.shape == (expected,)
  assert len(set(positions.tolist())) == expected
  assert positions.min() >= 0
  assert positions.max() < size


@pytest.mark.parametrize('seed', [0, 1, 5])
@pytest.mark.parametrize(('shape', 'b'), STRIDED)
def test_strided_keeps_all_diagonals_of_one_offset(
  shape: tuple[int, int], b: int, seed: int
) -> None:
  n, m = shape
  selection = Selection.of('strided', shape, 1 / b, seed)
  i_K, j_K = np.divmod(selection.positions, m)
  assert selection.stride == b
  assert selection.count == n * m // b
  assert selection.layout == (b, n // b, m // b)
  assert len(set(selection.positions.tolist())) == selection.count
  assert len(set(((i_K - j_K) % b).tolist())) == 1


def test_strided_offsets_differ_by_seed() -> None:
  starts = {
    Selection('strided', (8, 8), 16, seed).positions[0] for seed in range(30)
  }
  assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize('kind', ['lowpass', 'block'])
@pytest.mark.parametrize('shape', UNEVEN)
def test_low_frequencies_come_first(shape: tuple[int, int], kind: str) -> None:
  n, m = shape

  def order(position: int) -> tuple[Fraction, int]:
    i, j = divmod(position, m)
    frequencies = Fraction(2 * i + 1, 2 * n), Fraction(2 * j + 1, 2 * m)
    key = sum(frequencies) if kind == 'lowpass' else max(frequencies)
    return Fraction(key), position

  expected = sorted(range(n * m), key=order)
  assert Selection(kind, shape, n * m).positions.tolist() == expected


@pytest.mark.parametrize(
  ('shape', 'box'), [((6, 6), (3, 3)), ((4, 8), (2, 4)), ((12, 4), (6, 2))]
)
def test_block_is_a_rectangle(
  shape: tuple[int, int], box: tuple[int, int]
) -> None:
  selection = Selection('block', shape, box[0] * box[1])
  inside = [i * shape[1] + j for i in range(box[0]) for j in range(box[1])]
  assert sorted(selection.positions.tolist()) == inside


@pytest.mark.parametrize('kind', ['lowpass', 'block', 'random', 'band'])
def test_a_smaller_k_is_the_beginning_of_a_larger(kind: str) -> None:
  full = Selection(kind, (12, 10), 120, seed=3)
  for count in (1, 37, 119):
    part = dataclasses.replace(full, count=count)
    np.testing.assert_array_equal(part.positions, full.positions[:count])


@pytest.mark.parametrize('seed', range(8))
def test_a_smaller_strided_k_is_a_part_of_a_larger(seed: int) -> None:
  large, small = (
    set(Selection.of('strided', (24, 36), 1 / b, seed).positions.tolist())
    for b in (3, 12)
  )
  assert small < large


@pytest.mark.parametrize(
  'selection', of_every_kind(0.3), ids=lambda s: f'{s.kind}-{s.shape}'
)
def test_frequencies_are_the_tightest_blocks_around_the_positions(
  selection: Selection,
) -> None:
  rows_BxR, columns_BxC = selection.frequencies
  m = selection.shape[1]
  grid = rows_BxR[:, :, None] * m + columns_BxC[:, None, :]
  if selection.kind == 'strided':
    np.testing.assert_array_equal(grid.ravel(), selection.positions)
    return
  i_K, j_K = np.divmod(selection.positions, m)
  assert set(selection.positions.tolist()) <= set(grid.ravel().tolist())
  assert rows_BxR.tolist() == [list(range(i_K.max() + 1))]
  assert columns_BxC.tolist() == [list(range(j_K.max() + 1))]


# A checkpoint must find its positions again: never change these to make the
# test pass.
@pytest.mark.parametrize(
  ('selection', 'positions'),
  [
    (Selection('lowpass', (4, 4), 10), [0, 1, 4, 2, 5, 8, 3, 6, 9, 12]),
    (Selection('lowpass', (2, 5), 6), [0, 1, 2, 5, 3, 6]),
    (Selection('block', (4, 4), 7), [0, 1, 4, 5, 2, 6, 8]),
    (Selection('random', (4, 4), 8), [10, 8, 15, 1, 2, 13, 11, 4]),
    (Selection('random', (3, 5), 6, seed=7), [5, 1, 2, 10, 7, 9]),
    (Selection('strided', (4, 4), 8), [1, 3, 9, 11, 4, 6, 12, 14]),
    (
      Selection('band', (4, 8), 10, seed=3),
      [5, 15, 17, 27, 6, 8, 18, 28, 7, 9],
    ),
    (Selection('band', (5, 3), 7, seed=1), [0, 4, 11, 3, 7, 14, 6]),
    (
      Selection('strided', (6, 9), 18, seed=2),
      [2, 5, 8, 29, 32, 35, 9, 12, 15, 36, 39, 42, 19, 22, 25, 46, 49, 52],
    ),
  ],
  ids=lambda value: value.kind if isinstance(value, Selection) else '',
)
def test_small_positions_are_pinned(
  selection: Selection, positions: list[int]
) -> None:
  assert selection.positions.tolist() == positions


@pytest.mark.parametrize('shape', [(12, 36), (36, 12), (128, 384)])
def test_a_band_holds_as_much_of_every_row_and_column(
  shape: tuple[int, int],
) -> None:
  n, m = shape
  for width in (1, 3, max(shape) // 2):
    selection = Selection('band', shape, width * min(shape), seed=4)
    i_K, j_K = np.divmod(selection.positions, m)
    for places, size in ((i_K, n), (j_K, m)):
      held = np.bincount(places, minlength=size)
      assert held.max() - held.min() <= 1, width


def test_bands_start_apart_by_seed() -> None:
  starts = {Selection('band', (4, 8), 4, s).positions[0] for s in range(60)}
  assert starts == set(range(8))


def test_random_positions_are_uniform_and_differ_by_seed() -> None:
  drawn = [Selection('random', (64, 64), 1024, s).positions for s in range(3)]
  for positions in drawn:
    i_K, j_K = np.divmod(positions, 64)
    quadrants = np.bincount(2 * (i_K >= 32) + (j_K >= 32), minlength=4)
    # 256 each on average; 5 standard deviations are 60.
    assert np.abs(quadrants - 256).max() < 60
    assert np.bincount(i_K, minlength=64).max() < 36  # 16 on average
  for a, b in ((0, 1), (1, 2), (0, 2)):
    assert abs(np.intersect1d(drawn[a], drawn[b]).size - 256) < 70


@pytest.mark.parametrize(
  ('kind', 'fraction', 'low', 'high'),
  [
    ('lowpass', 0.1, 50, 57),
    ('lowpass', 0.05, 35, 40),
    ('block', 0.1, 40, 41),
    ('block', 0.05, 28, 29),
    ('random', 0.05, 128, 128),
    ('strided', 1 / 16, 128, 128),
    ('band', 0.05, 128, 128),
  ],
)
def test_generic_kernels_attain_the_rank_bound(
  kind: str, fraction: float, low: int, high: int
) -> None:
  selection = Selection.of(kind, (128, 128), fraction)
  assert low <= selection.rank_bound <= high
  plane = np.zeros(128 * 128)
  rng = np.random.default_rng(0)
  plane[selection.positions] = rng.normal(size=selection.count)
  kernel = scipy.fft.idctn(plane.reshape(128, 128), norm='ortho')
  assert np.linalg.matrix_rank(kernel) == selection.rank_bound


@pytest.mark.parametrize(
  ('kind', 'scale'),
  [
    ('lowpass', 1.0),
    ('block', 1.0),
    ('random', 4.0),
    ('strided', 4.0),
    ('band', 4.0),
  ],
)
def test_update_scale(kind: str, scale: float) -> None:
  assert Selection.of(kind, (8, 8), 0.25).update_scale == scale


@pytest.mark.parametrize('kind', KINDS)
def test_full_k_keeps_every_position(kind: str) -> None:
  selection = Selection.of(kind, (6, 5), 1.0)
  assert sorted(selection.positions.tolist()) == list(range(30))
  assert selection.rank_bound == 5
  assert selection.update_scale == 1.0


def test_equal_selections_are_one_key() -> None:
  one, same = (Selection.of('random', (8, 8), 0.5) for _ in range(2))
  assert one.rank_bound == 8  # fills the caches of one alone
  assert one == same
  assert hash(one) == hash(same)
  others = (
    Selection.of('random', (8, 8), 0.5, seed=1),
    Selection.of('random', (8, 8), 31),
    Selection.of('lowpass', (8, 8), 0.5),
    Selection.of('random', (4, 16), 0.5),
  )
  assert len({one, same, *others}) == 5


@pytest.mark.parametrize(
  'keep', [0, -3, 17, 0.0, -0.5, 1.5, float('nan'), 'half', None, True, False]
)
def test_impossible_keeps_raise(keep: Any) -> None:
  with pytest.raises(ValueError, match=f'^keep: expected .*got {keep!r}'):
    Selection.of('lowpass', (4, 4), keep)


@pytest.mark.parametrize(
  ('shape', 'count'), [((6, 4), 8), ((6, 9), 6), ((4, 4), 5), ((8, 8), 8 * 3)]
)
def test_a_stride_must_divide_both_sizes(
  shape: tuple[int, int], count: int
) -> None:
  with pytest.raises(ValueError, match=r'^keep: a strided selection .*1/b'):
    Selection('strided', shape, count)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'kind': 'zigzag'}, "^selection: expected one of .*, got 'zigzag'"),
    ({'shape': (4,)}, '^shape: expected two positive sizes'),
    ({'shape': (0, 4)}, '^shape: expected two positive sizes'),
    ({'seed': -1}, '^seed: expected 0 to .*, got -1'),
    ({'seed': 2**32}, '^seed: expected 0 to .*, got 4294967296'),
  ],
)
def test_impossible_fields_raise(changes: dict[str, Any], message: str) -> None:
  fields = {'kind': 'random', 'shape': (4, 4), 'count': 4} | changes
  with pytest.raises(ValueError, match=message):
    Selection(**fields)


@pytest.mark.parametrize('kind', KINDS)
def test_the_rank_bound_is_above_low_rank_of_the_same_size(kind: str) -> None:
  """K positions in r rows and columns are at most r·max(N, M) (König)."""
  for shape in ((6, 6), (4, 24), (32, 8)):
    for count in range(1, shape[0] * shape[1] + 1):
      try:
        selection = Selection(kind, shape, count, seed=count)
      except ValueError:
        assert kind == 'strided'  # not every K
        continue
      assert selection.rank_bound * max(shape) >= count
      assert selection.rank_bound > count / sum(shape)
