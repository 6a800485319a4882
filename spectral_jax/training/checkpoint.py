"""Orbax checkpoints: the last two and the best."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from jax.sharding import Mesh

from spectral_jax.errors import UserError, first_line
from spectral_jax.training import sharding
from spectral_jax.training.step import TrainState
from spectral_jax.training.workdir import checkpoints

_METRIC = 'validation_loss'


def _metric(metrics: Any) -> float:
  return float(metrics[_METRIC])


class Checkpoints:
  """The checkpoints of a workdir, a context manager.

  A step holds the whole train state. The data's position and dropout's
  randomness follow from its step number, so nothing else is needed to go on
  as if the run had not stopped, on any number of devices or processes.
  """

  def __init__(self, directory: Path) -> None:
    keep = ocp.checkpoint_managers
    # Saving is not asynchronous: a step that is reported as saved is saved, and
    # the next step may then reuse the state's memory.
    self._directory = checkpoints(directory)
    with _readable(self._directory):
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep.AnyPreservationPolicy(
            [
              keep.LatestN(2),
              keep.BestN(get_metric_fn=_metric, reverse=True, n=1),
            ]
          ),
          best_fn=_metric,
          best_mode='min',
          enable_async_checkpointing=False,
        ),
      )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._manager.close()

  @property
  def steps(self) -> list[int]:
    """The steps saved, in ascending order."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """The newest step saved."""
    step: int | None = self._manager.latest_step()
    return step

  @property
  def best(self) -> int | None:
    """The step saved with the lowest validation loss."""
    step: int | None = self._manager.best_step()
    return step

  def save(self, state: TrainState, validation_loss: float) -> None:
    """Saves a state under its own step number."""
    self._manager.save(
      int(state.step),
      args=ocp.args.StandardSave(state),
      metrics={_METRIC: validation_loss},
    )

  def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
    """Restores a step onto a mesh.

    Args:
      step: one of `steps`.
      like: a state of the same shapes, abstract or not.
      mesh: where the state is to lie.

    Raises:
      UserError: if the step cannot be read.
    """
    target = sharding.abstract(like, mesh)
    with _readable(self._directory / str(step)):
      state: TrainState = self._manager.restore(
        step, args=ocp.args.StandardRestore(target)
      )
    return state


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # Orbax raises many kinds, Exception itself too.
    raise UserError(
      f'checkpoint {path}: cannot be read ({type(error).__name__}: '
      f'{first_line(error)}); move the damaged step away to go on from '
      'the one before.'
    ) from error
