"""Batches of token windows: shuffled to train on, in order to evaluate on.

Shapes: B windows a batch, T tokens a window (the context).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from spectral_jax.errors import UserError

Batch = dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Reader:
  """One of those that read the batches to train on, each its own rows.

  Attributes:
    context: T, the tokens a row.
    batch_size: B, the rows of a batch that are this reader's.
    seed: of the order.
    rank: which reader this is.
    world: how many readers there are.
    first_batch: how many batches were read before; reading goes on as if it had
      not stopped, whatever `world` was then, if B·world was the same.
  """

  context: int
  batch_size: int
  seed: int
  rank: int = 0
  world: int = 1
  first_batch: int = 0

  def batches(self, rows: grain.MapDataset[Any]) -> grain.MapDataset[Any]:
    """This reader's part of batches of B·world rows: B, one after the other."""
    batches = rows.batch(self.batch_size, drop_remainder=True)
    return batches[self.first_batch * self.world + self.rank :: self.world]


def window_starts(length: int, reader: Reader) -> grain.MapDataset[Any]:
  """Returns where the windows of a text begin, in the order they are read in.

  Parted after repeat(), the readers share one stream: none of them enters an
  epoch before the others, whatever their number.

  Args:
    length: of the text, in tokens; above the reader's context.
    reader: whose seed and context.
  """
  starts = grain.MapDataset.range(length - reader.context).seed(reader.seed)
  return starts.shuffle().repeat()


def train_batches(
  tokens: NDArray[np.integer[Any]], reader: Reader
) -> 'grain.DatasetIterator[Batch]':
  """Returns an endless iterator over windows in random order.

  Every window of the text is drawn once an epoch, each epoch in another order.
  The order depends on the seed alone: no two readers share a window within an
  epoch.

  Args:
    tokens: ids of shape [length].
    reader: whose batches.

  Returns:
    An iterator over `{'inputs': int32 [B, T], 'targets': int32 [B, T]}`, where
    targets are the inputs one token later.

  Raises:
    UserError: the tokens are fewer than a window and its last target.
  """
  context = reader.context
  tokens = np.asarray(tokens, np.int32)
  if len(tokens) <= context:
    raise UserError(
      f'the text of {len(tokens)} tokens is shorter than a context of '
      f'{context} and the token after it: give more text or a shorter context'
    )
  offsets_T = np.arange(context)

  def windows(starts_B: NDArray[np.int64]) -> Batch:
    positions_BxT = starts_B[:, None] + offsets_T
    return {
      'inputs': tokens[positions_BxT],
      'targets': tokens[positions_BxT + 1],
    }

  starts = reader.batches(window_starts(len(tokens), reader))
  # The tokens are in memory: threads would only contend for the interpreter.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return iter(starts.map(windows).to_iter_dataset(options))


def evaluation_batches(
  tokens: NDArray[np.integer[Any]], *, context: int, batch_size: int
) -> Iterator[Batch]:
  """Returns an iterator over the whole text, once, in order.

  Every token but the first is a target exactly once: windows follow each other
  without overlap. The last window and the last batch are padded.

  Args:
    tokens: ids of shape [length].
    context: T, the tokens a window.
    batch_size: B, the windows a batch.

  Returns:
    An iterator over `{'inputs': int32 [B, T], 'targets': int32 [B, T],
    'weights': float32 [B, T]}`: weights are 1 at targets and 0 at padding.

  Raises:
    UserError: fewer than two tokens.
  """
  tokens = np.asarray(tokens, np.int32)
  if len(tokens) < 2:
    raise UserError(
      f'the text to evaluate has {len(tokens)} tokens: give at least 2'
    )
  step = context * batch_size

  def padded(values: NDArray[Any]) -> NDArray[Any]:
    values = np.pad(values, (0, step - len(values)))
    return values.reshape(batch_size, context)

  def batches() -> Iterator[Batch]:
    for start in range(0, len(tokens) - 1, step):
      targets = tokens[start + 1 : start + 1 + step]
      yield {
        'inputs': padded(tokens[start : start + len(targets)]),
        'targets': padded(targets),
        'weights': padded(np.ones(len(targets), np.float32)),
      }

  return batches()
