"""The input pipeline: every window once an epoch, every token once a pass."""

import itertools
import pathlib

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from spectral_jax.data.pipeline import (
  Batch,
  Reader,
  evaluation_batches,
  train_batches,
)
from spectral_jax.errors import UserError

# Token i is i, so a window says where it starts.
TOKENS = np.arange(47)
CONTEXT = 8
WINDOWS = len(TOKENS) - CONTEXT  # 39


def _starts(count: int, *, batch_size: int = 3, **options: int) -> list[int]:
  """Where the windows of the first batches start."""
  batches = train_batches(
    TOKENS,
    Reader(context=CONTEXT, batch_size=batch_size, **{'seed': 0, **options}),
  )
  some = itertools.islice(batches, count)
  return [int(start) for batch in some for start in batch['inputs'][:, 0]]


def test_batches_are_windows() -> None:
  batches = train_batches(TOKENS, Reader(context=CONTEXT, batch_size=3, seed=0))
  for batch in itertools.islice(batches, 20):
    assert set(batch) == {'inputs', 'targets'}
    for array in batch.values():
      assert array.shape == (3, CONTEXT)
      assert array.dtype == np.int32
    starts = batch['inputs'][:, :1]
    np.testing.assert_array_equal(
      batch['inputs'], starts + np.arange(CONTEXT)[None]
    )
    np.testing.assert_array_equal(batch['targets'], batch['inputs'] + 1)


def test_every_window_once_an_epoch_and_epochs_differ() -> None:
  starts = _starts(3 * WINDOWS // 3)
  epochs = [starts[i * WINDOWS : (i + 1) * WINDOWS] for i in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(WINDOWS))
    assert epoch != sorted(epoch)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_alone_decides() -> None:
  assert _starts(30) == _starts(30)
  assert _starts(30) != _starts(30, seed=1)


@pytest.mark.parametrize('world', [2, 3])  # 39 windows: 2 does not divide them
def test_ranks_share_no_window_within_an_epoch(world: int) -> None:
  count = 2 * WINDOWS // world
  ranks = [
    _starts(count, batch_size=1, rank=rank, world=world)
    for rank in range(world)
  ]
  drawn = [start for starts in zip(*ranks, strict=True) for start in starts]
  for epoch in (drawn[:WINDOWS], drawn[WINDOWS:]):
    assert sorted(epoch) == list(range(WINDOWS))
  # Together they draw what one process alone would.
  assert drawn == _starts(2 * WINDOWS // 3)


def test_a_rank_has_its_rows_of_the_whole_batch() -> None:
  whole = np.reshape(_starts(30, batch_size=6), (30, 2, 3))
  for rank in range(2):
    rows = _starts(30, rank=rank, world=2)
    np.testing.assert_array_equal(rows, whole[:, rank].ravel())


def test_first_batch_goes_on_exactly() -> None:
  starts = _starts(40)
  for first in (1, 13, 20):  # 13 batches are an epoch
    assert _starts(20, first_batch=first) == starts[3 * first :][:60]


def test_first_batch_goes_on_with_other_processes() -> None:
  ranks = [
    _starts(30, batch_size=1, rank=rank, world=3, first_batch=7)
    for rank in range(3)
  ]
  drawn = [start for starts in zip(*ranks, strict=True) for start in starts]
  assert drawn == _starts(37)[3 * 7 :]


def test_a_restored_iterator_goes_on_exactly(tmp_path: pathlib.Path) -> None:
  def fresh() -> 'grain.DatasetIterator[Batch]':
    return train_batches(TOKENS, Reader(context=CONTEXT, batch_size=4, seed=3))

  batches = fresh()
  for _ in range(14):  # in the middle of the second epoch
    next(batches)
  with ocp.CheckpointManager(tmp_path) as manager:
    saved = ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches))
    manager.save(14, args=saved)
    manager.wait_until_finished()
    expected = list(itertools.islice(batches, 30))
    restored = fresh()
    manager.restore(
      14,
      args=ocp.args.Composite(
        data=grain.checkpoint.CheckpointRestore(restored)
      ),
    )
  for batch, other in zip(expected, restored, strict=False):
    np.testing.assert_array_equal(batch['inputs'], other['inputs'])
    np.testing.assert_array_equal(batch['targets'], other['targets'])


def test_fewer_windows_than_a_batch() -> None:
  batches = train_batches(TOKENS[:10], Reader(CONTEXT, 5, seed=0))
  assert set(next(batches)['inputs'][:, 0]) == {0, 1}


@pytest.mark.parametrize('length', [0, CONTEXT - 1, CONTEXT])
def test_train_text_too_short(length: int) -> None:
  with pytest.raises(UserError) as caught:
    train_batches(TOKENS[:length], Reader(CONTEXT, 1, seed=0))
  assert f'{length} tokens is shorter than a context of 8' in str(caught.value)


@pytest.mark.parametrize('length', [2, 8, 9, 10, 24, 25, 26, 47])
def test_evaluation_covers_every_token_once(length: int) -> None:
  tokens = TOKENS[:length] + 100
  batches = list(evaluation_batches(tokens, context=CONTEXT, batch_size=3))
  assert len(batches) == -(-(length - 1) // (3 * CONTEXT))
  for batch in batches:
    assert set(batch) == {'inputs', 'targets', 'weights'}
    for array in batch.values():
      assert array.shape == (3, CONTEXT)
    assert batch['inputs'].dtype == batch['targets'].dtype == np.int32
    assert batch['weights'].dtype == np.float32
  inputs, targets, weights = (
    np.concatenate([batch[key].reshape(-1) for batch in batches])
    for key in ('inputs', 'targets', 'weights')
  )
  real = weights == 1
  np.testing.assert_array_equal(inputs[real], tokens[:-1])
  np.testing.assert_array_equal(targets[real], tokens[1:])
  assert not weights[~real].any()
  assert not targets[~real].any()


@pytest.mark.parametrize('length', [0, 1])
def test_evaluation_text_too_short(length: int) -> None:
  # At the call, before anything is iterated.
  with pytest.raises(UserError, match=f'has {length} tokens'):
    evaluation_batches(TOKENS[:length], context=CONTEXT, batch_size=3)
