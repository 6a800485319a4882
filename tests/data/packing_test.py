"""Packed rows: what a stream holds, and that a row's place decides it."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from spectral_jax.data import packing
from spectral_jax.data.packing import PackedRows, packed_batches
from spectral_jax.data.pipeline import Reader

CONTEXT = 8
LANES = 6
SEPARATOR = -1
STRIDE = 7  # documents of 5 + 1 tokens, in the mean
ROWS = 5  # of them: what 42 tokens fill


class Tape:
  """Documents without end; token t of document d is 1000 d + t."""

  def __init__(self) -> None:
    self.lengths = np.random.default_rng(0).geometric(1 / 6, 10_000) - 1
    self.read: list[int] = []

  def __getitem__(self, index: int) -> NDArray[np.int32]:
    self.read.append(index)
    return 1000 * index + np.arange(self.lengths[index], dtype=np.int32)


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(packing, 'DOCUMENTS', STRIDE)


def _rows(tape: Tape | None = None) -> PackedRows:
  return PackedRows(
    tape or Tape(),
    separator=SEPARATOR,
    context=CONTEXT,
    batch_size=LANES,
    mean_length=5.0,
  )


def _stream(rows: PackedRows, lane: int, chapter: int) -> list[int]:
  """The tokens that a lane reads in the steps of a stretch."""
  steps = range(chapter * ROWS, (chapter + 1) * ROWS)
  parts = [rows[step * LANES + lane] for step in steps]
  inputs = np.concatenate([part['inputs'] for part in parts])
  targets = np.concatenate([part['targets'] for part in parts])
  np.testing.assert_array_equal(inputs[1:], targets[:-1])
  return [*inputs.tolist(), int(targets[-1])]


@pytest.mark.parametrize('chapter', [0, 1, 2])
def test_a_stretch_is_a_stream_of_whole_documents(chapter: int) -> None:
  rows, tape = _rows(), Tape()
  for lane in range(LANES):
    stream = _stream(rows, lane, chapter)
    assert len(stream) == ROWS * CONTEXT + 1
    expected = [SEPARATOR]
    for document in itertools.count((chapter * LANES + lane) * STRIDE):
      expected += [*tape[document].tolist(), SEPARATOR]
      if len(expected) >= len(stream):
        break
    assert stream == expected[: len(stream)]  # the last is cut, no other


def test_a_document_longer_than_a_row_goes_on_in_the_next() -> None:
  tape = Tape()
  tape.lengths[0] = 20
  stream = _stream(_rows(tape), 0, 0)
  assert stream[:22] == [SEPARATOR, *range(20), SEPARATOR]


def test_a_row_follows_from_its_place_alone() -> None:
  places = np.arange(4 * ROWS * LANES)
  rows = _rows()
  in_order = [rows[int(place)] for place in places]
  order = np.random.default_rng(1).permutation(places)
  rows = _rows()
  for place in order:
    for name, expected in in_order[place].items():
      np.testing.assert_array_equal(rows[int(place)][name], expected)


def test_in_order_a_document_is_read_once() -> None:
  tape = Tape()
  rows = _rows(tape)
  for chapter in range(2):
    tape.read.clear()
    _ = _stream(rows, 2, chapter)
    first = (chapter * LANES + 2) * STRIDE
    assert tape.read == list(range(first, first + len(tape.read)))


def test_few_documents_are_left_out_or_read_twice(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(packing, 'DOCUMENTS', 400)
  tape = Tape()
  rows = _rows(tape)
  for place in range(3 * 300 * LANES):  # three stretches of each lane
    _ = rows[place]
  documents, times = np.unique(tape.read, return_counts=True)
  assert (times > 1).mean() < 0.05
  assert len(documents) > 0.95 * (documents[-1] + 1)


def _drawn(
  count: int, *, rank: int = 0, world: int = 1, first: int = 0
) -> NDArray[np.int32]:
  """The inputs of the first batches of a process, one after the other."""
  batches = packed_batches(
    _rows(), Reader(CONTEXT, LANES // world, 0, rank, world, first)
  )
  return np.stack(
    [batch['inputs'] for batch in itertools.islice(batches, count)]
  )


def test_batches() -> None:
  batch = next(packed_batches(_rows(), Reader(CONTEXT, LANES, 0)))
  assert set(batch) == {'inputs', 'targets'}
  for name, array in batch.items():
    assert (array.shape, array.dtype) == ((LANES, CONTEXT), np.int32)
    for lane in range(LANES):
      np.testing.assert_array_equal(array[lane], _rows()[lane][name])


@pytest.mark.parametrize('first', [1, ROWS, 3 * ROWS + 2])
def test_goes_on_exactly(first: int) -> None:
  np.testing.assert_array_equal(
    _drawn(12, first=first), _drawn(first + 12)[first:]
  )


@pytest.mark.parametrize('world', [2, 3])
def test_processes_share_the_rows_of_a_batch(world: int) -> None:
  ranks = [_drawn(12, rank=rank, world=world, first=4) for rank in range(world)]
  together = np.concatenate(ranks, axis=1)
  np.testing.assert_array_equal(together, _drawn(16)[4:])
  rows = [
    {row.tobytes() for row in drawn.reshape(-1, CONTEXT)} for drawn in ranks
  ]
  assert len(set.union(*rows)) == 12 * LANES
