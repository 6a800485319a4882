"""The table of packing counts what PackedRows reads."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import packing
from spectral_jax.data.packing import PackedRows, plan

CONTEXT = 1024
DOCUMENTS = 16


class Tape:
  """Documents of given lengths, whose tokens tell whence they are."""

  def __init__(self, lengths: NDArray[np.int64]):
    self.starts = np.concatenate([[0], np.cumsum(lengths + 1)])

  def __getitem__(self, index: int) -> NDArray[np.int32]:
    start, end = self.starts[index : index + 2]
    return np.arange(start, end - 1, dtype=np.int32)


def test_it_counts_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr('spectral_jax.data.packing.DOCUMENTS', DOCUMENTS)
  lengths = packing.draw_lengths('C4', 2000)
  mean = float(lengths.mean())
  rows, stride = plan(mean, CONTEXT, DOCUMENTS)
  stretches = (len(lengths) - 1) // stride - 1  # the last may read beyond
  tape = Tape(lengths)
  packed_rows = PackedRows(
    tape, separator=-1, context=CONTEXT, batch_size=1, mean_length=mean
  )
  read = np.concatenate(
    [packed_rows[step]['inputs'] for step in range(stretches * rows)]
  )
  there = int(tape.starts[stretches * stride])
  times = np.bincount(read[(read >= 0) & (read < there)], minlength=there)
  lengths = lengths[: stretches * stride + 1]
  never, again, padding = packing.packed(lengths, CONTEXT, DOCUMENTS)
  # Separators, one in 480 tokens, are no document's here.
  assert (times == 0).mean() == pytest.approx(never, abs=0.005)
  assert (times == 2).mean() == pytest.approx(again, abs=0.005)
  assert never > 0.05
  assert padding == 0


def test_rows_are_cut_or_padded() -> None:
  lengths = np.array([3, 5, 1, 1])  # 4 + 6 and 2 + 2 with their separators
  assert packing.padded(lengths, 8, 2) == (2 / 14, 0, 4 / 16)


@pytest.mark.parametrize(
  ('corpus', 'mean', 'deviation'), [('LM1B', 30, 17), ('C4', 480, 790)]
)
def test_lengths_are_as_said(corpus: str, mean: int, deviation: int) -> None:
  lengths = packing.draw_lengths(corpus, 1_000_000)
  assert lengths.mean() == pytest.approx(mean, rel=0.01)
  assert lengths.std() == pytest.approx(deviation, rel=0.05)
