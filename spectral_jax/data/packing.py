"""Documents packed into rows of equal length, each a function of its place.

Row b of step s depends on the documents' order, on s and on b alone, so a run
goes on after any step, in any number of processes, and keeps no state of an
iterator. Each row b of the batch is a lane, in which steps follow each other
like the pages of a book: R of them are a stretch, the rows of which are cut
from one stream of tokens

  separator, document, separator, document, separator, …

that starts at a document of its own, n · stride, where n counts the stretches
of all lanes. The stream ends when R rows are full, so there is no padding and a
document is cut at the end of a stretch only. How many documents that takes
varies: those left before the next stretch's first are skipped in this epoch,
and where it is too many, some are read twice. The stride is their mean, and a
stretch is long enough for both to be rare: 2 % each where documents are alike
(LM1B), 6 % each where a few are very long (C4); docs/data.md has the figures,
and those of other ways.

Documents see each other within a row, across the separator, as in GPT-2.

Shapes: B rows a batch, T tokens a row (the context).
"""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Protocol

import grain
import numpy as np
from numpy.typing import NDArray

from spectral_jax.data.pipeline import Batch, Reader

# Of a stretch, in the mean. With more, fewer are skipped and read twice; to go
# on in the middle of a stretch, those before it are tokenized again.
DOCUMENTS = 128


def plan(mean_length: float, context: int, documents: int) -> tuple[int, int]:
  """Returns the rows R of a stretch, and its stride in documents.

  Args:
    mean_length: of a document, in tokens.
    context: T.
    documents: of a stretch, in the mean.
  """
  mean = mean_length + 1  # with its separator
  rows = max(1, round(documents * mean / context))
  return rows, max(1, round(rows * context / mean))


class Documents(Protocol):
  """Tokens of documents in a random order that has no end."""

  def __getitem__(self, index: int) -> NDArray[np.int32]:
    """Returns the ids of a document, of shape [length]."""


@dataclasses.dataclass
class _Stretch:
  """As much of a stretch's stream as was asked for.

  Attributes:
    number: among all stretches.
    document: the next to be read.
    tokens: the stream.
    filled: how many of its tokens are known.
  """

  number: int
  document: int
  tokens: NDArray[np.int32]
  filled: int


class PackedRows:
  """An endless source of rows, by their place: step · B + lane.

  Args:
    documents: in the order in which they are read.
    separator: the id between two documents.
    context: T.
    batch_size: B, of all processes together.
    mean_length: of a document, in tokens.
  """

  def __init__(
    self,
    documents: Documents,
    *,
    separator: int,
    context: int,
    batch_size: int,
    mean_length: float,
  ):
    self._documents = documents
    self._separator = separator
    self._context = context
    self._lanes = batch_size
    self._rows, self._stride = plan(mean_length, context, DOCUMENTS)
    # Of each lane the stretch that was read last: reading step after step, a
    # document is tokenized once.
    self._stretches: dict[int, _Stretch] = {}

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> Batch:
    """Returns `inputs` and `targets` of shape [T]."""
    number, row = self._place(index)
    start, end = row * self._context, (row + 1) * self._context + 1
    stretch = self._stretch(index % self._lanes, number)
    self._fill(stretch, end)
    return {
      'inputs': stretch.tokens[start : end - 1],
      'targets': stretch.tokens[start + 1 : end],
    }

  def locate(self, index: int) -> tuple[int, int]:
    """Returns the first document of a row's stretch, and the row's place in it.

    The document is by its place in the order; the first row of a stretch has
    the place 0.
    """
    number, row = self._place(index)
    return number * self._stride, row

  def _place(self, index: int) -> tuple[int, int]:
    """The number of a row's stretch, and its place in it."""
    step, lane = divmod(index, self._lanes)
    chapter, row = divmod(step, self._rows)
    return chapter * self._lanes + lane, row

  def _stretch(self, lane: int, number: int) -> _Stretch:
    stretch = self._stretches.get(lane)
    if stretch is None or stretch.number != number:
      tokens = np.empty(self._rows * self._context + 1, np.int32)
      tokens[0] = self._separator
      stretch = _Stretch(number, number * self._stride, tokens, 1)
      self._stretches[lane] = stretch
    return stretch

  def _fill(self, stretch: _Stretch, end: int) -> None:
    """Reads documents until the stream is known up to `end`."""
    while stretch.filled < end:
      document = np.append(self._documents[stretch.document], self._separator)
      free = stretch.tokens[stretch.filled :]
      free[: len(document)] = document[: len(free)]
      stretch.filled += min(len(document), len(free))
      stretch.document += 1


def packed_batches(rows: PackedRows, reader: Reader) -> Iterator[Batch]:
  """Returns an endless iterator over a reader's batches of rows.

  Args:
    rows: of batches of all readers.
    reader: whose batches.

  Returns:
    An iterator over `{'inputs': int32 [B, T], 'targets': int32 [B, T]}`, where
    targets are the inputs one token later.
  """
  # One thread reads ahead of the training; in the order of the steps, which is
  # what keeps PackedRows from reading anything again.
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  batches = reader.batches(grain.MapDataset.source(rows))
  return iter(batches.to_iter_dataset(options))
