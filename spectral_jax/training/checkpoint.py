"""Checkpoints: the last two and the best, each with checksums.

A step at which a run was interrupted, between two evaluations, has no loss; it
is kept beside them until a newer one is saved.

Orbax writes and reads the arrays. Which steps there are, which of them are kept
and whether they are what was saved is decided here, by process 0 for all.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from spectral_jax.errors import UserError, first_line
from spectral_jax.training import (
  console,
  manifest,
  outage,
  processes,
  sharding,
  workdir,
)
from spectral_jax.training.manifest import State
from spectral_jax.training.step import Metrics, TrainState

_KEPT = 2


class Checkpoints:
  """The checkpoints of a workdir, a context manager.

  A step holds the whole train state. The data's position and dropout's
  randomness follow from its step number, so nothing else is needed to go on
  as if the run had not stopped, on any number of devices or processes.
  """

  def __init__(self, directory: Path) -> None:
    self._folder = workdir.checkpoints(directory)
    # Saving is not asynchronous: a step that is reported as saved is saved, and
    # the next step may then reuse the state's memory.
    self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._orbax.close()

  @property
  def steps(self) -> list[int]:
    """The steps saved to their end, in ascending order."""
    return sorted(
      int(folder.name)
      for folder in workdir.step_folders(self._folder)
      if not manifest.is_unfinished(folder)
    )

  @property
  def latest(self) -> int | None:
    """The newest step saved."""
    return max(self.steps, default=None)

  @property
  def named_latest(self) -> str:
    """The newest step saved, for a person to read."""
    return 'none yet' if self.latest is None else f'step {self.latest}'

  @property
  def best(self) -> int | None:
    """The step saved with the lowest validation loss."""
    losses = {step: self._loss(step) for step in self.steps}
    scored = {step: loss for step, loss in losses.items() if loss is not None}
    return min(scored, key=scored.__getitem__, default=None)

  def save(
    self,
    state: TrainState,
    validation_loss: float | None,
    pending: Sequence[Metrics] = (),
  ) -> bool:
    """Saves a state under its own step number; all processes call it.

    A step that is saved already stays as it is. If one cannot be saved, for
    want of room or of the disk itself, a line on standard output says so; what
    there is of it is removed, and older steps stay.

    Args:
      state: what is saved.
      validation_loss: in nats per token; None of a step between evaluations.
      pending: the metrics of the steps since the last row of the log.

    Returns:
      Whether the step is saved.
    """
    folder = self._folder / str(int(state.step))
    values = [
      {name: float(value) for name, value in metrics.items()}
      for metrics in jax.device_get(pending)
    ]
    try:
      if processes.of_first(lambda: self._begin(folder, _bytes(state))):
        with processes.together(), outage.as_user_error():
          self._orbax.save(
            folder / manifest.ORBAX, args=ocp.args.StandardSave(state)
          )
        with processes.together(), outage.as_user_error():
          if processes.is_first():
            manifest.finish(folder, validation_loss, values)
    except UserError as error:
      if processes.is_first():
        with contextlib.suppress(OSError):
          manifest.discard(folder)
        console.tell(
          f'checkpoint {folder.name}: not saved ({error}); the last good one: '
          f'{self.named_latest}',
        )
      return False
    if processes.is_first():
      with contextlib.suppress(OSError):  # at the next save, then
        self._prune()
    return True

  def recover(self) -> int | None:
    """The newest step that is good, for training to go on from.

    What is newer and damaged is set aside, with a line on standard output, and
    what was not saved to its end removed. All processes call it.

    Raises:
      UserError: if there is none but damaged ones.
    """
    return processes.of_first(self._recover)

  def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
    """Restores a step onto a mesh; all processes call it.

    Args:
      step: one of `steps`.
      like: a state of the same shapes, abstract or not.
      mesh: where the state is to lie.

    Raises:
      UserError: if the step is damaged, or cannot be read.
    """
    folder = self._folder / str(step)
    state, problem = processes.of_first(lambda: _examine(folder))
    if state == State.DAMAGED.value:
      raise UserError(
        f'checkpoint {folder}: damaged ({problem}); take another step, or '
        'train on, which sets it aside.'
      )
    saved = folder / manifest.ORBAX
    target = sharding.abstract(like, mesh)
    with _readable(folder):
      _check_shapes(self._orbax.metadata(saved).item_metadata.tree, target)
      restored: TrainState = self._orbax.restore(
        saved, args=ocp.args.StandardRestore(target)
      )
    return restored

  def pending(self, step: int) -> list[Metrics]:
    """The metrics that were saved with a step, as they were; all call it."""
    folder = self._folder / str(step)
    found = processes.of_first(lambda: _pending(folder))
    return [
      {name: np.float32(value) for name, value in metrics.items()}
      for metrics in found
    ]

  def _begin(self, folder: Path, size: int) -> bool:
    """Makes the folder of a step; False if that is saved already."""
    if folder.exists() and not manifest.is_unfinished(folder):
      return False
    with outage.as_user_error():
      self._folder.mkdir(exist_ok=True)
      if folder.exists():
        manifest.discard(folder)
      manifest.begin(folder)
      # Orbax would find out in the midst of it, in one of several processes.
      if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return True

  def _loss(self, step: int) -> float | None:
    """A step's validation loss; None where none can be told."""
    folder = self._folder / str(step)
    try:
      if found := manifest.read(folder):
        return found.validation_loss
      of_orbax = workdir.read_json(folder / 'metrics' / 'metrics')
      return float(of_orbax['validation_loss'])
    except (UserError, KeyError, TypeError, ValueError, OverflowError):
      return None

  def _prune(self) -> None:
    steps = self.steps
    evaluated = [
      step
      for step in steps
      if not manifest.is_between_evaluations(self._folder / str(step))
    ]
    kept = {*evaluated[-_KEPT:], self.best, steps[-1]}
    for step in steps:
      if step not in kept:
        manifest.discard(self._folder / str(step))

  def _recover(self) -> int | None:
    """What `recover` does, in process 0."""
    for folder in workdir.step_folders(self._folder):
      if manifest.is_unfinished(folder):
        manifest.discard(folder)
    for step in reversed(self.steps):
      folder = self._folder / str(step)
      state, problem = manifest.state(folder)
      if state is State.DAMAGED:
        aside = workdir.set_aside(folder)
        console.tell(
          f'checkpoint {folder.name}: damaged ({problem}); set aside as '
          f'{aside}',
        )
      else:
        if state is State.UNCHECKED:
          console.tell(
            f'checkpoint {folder.name}: it has no checksums, being of an older '
            'version; taken as it is',
          )
        return step
    if workdir.steps_aside(self._folder):
      raise UserError(
        f'checkpoints in {self._folder}: none but damaged ones, set aside in '
        'its folder damaged; bring a sound copy back, name another --workdir, '
        'or delete that folder to begin again.'
      )
    return None


def _bytes(state: TrainState) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _check_shapes(saved: Any, target: TrainState) -> None:
  """Raises ValueError for an array that was saved with another shape.

  Orbax would find out while it reads the other arrays. Each of these then ends
  in an event loop that is closed, with a traceback on standard error.
  """
  shapes = {
    path: leaf.shape for path, leaf in ocp.tree.to_flat_dict(saved).items()
  }
  for path, leaf in ocp.tree.to_flat_dict(target).items():
    found = shapes.get(path, leaf.shape)  # Orbax tells what is missing
    if found != leaf.shape:
      raise ValueError(f'{"/".join(path)} is {found}, expected {leaf.shape}')


def _pending(folder: Path) -> list[dict[str, float]]:
  found = manifest.read(folder)
  return [dict(metrics) for metrics in found.pending] if found else []


def _examine(folder: Path) -> tuple[str, str]:
  state, problem = manifest.state(folder)
  return state.value, problem


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
