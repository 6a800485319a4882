"""Looks at the numbers of each step, and answers the bad ones.

A step is bad whose loss or gradient is not finite, or whose loss is far above
what it was of late (`config.train.spike_factor`). `config.train.on_nonfinite`
says what is done then. `optax.apply_if_finite` would not do for it: it does not
see the loss, applies a bad update after a number of them, and holds up the
learning rate's schedule.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from spectral_jax.data.pipeline import Reader
from spectral_jax.errors import UserError
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.failures import Failure, Failures
from spectral_jax.training.optimizer import path_name
from spectral_jax.training.step import Metrics

_ROWS = 10  # of the log, whose losses a loss is compared with
_WORST = 3  # parameters that are named
_SKIPPED = 10  # steps in a row, which end a run
_ROLLBACKS = 3  # to one checkpoint, after which the next bad step ends a run


class RolledBackError(Exception):
  """A bad step was noted, and training goes on from the step `to`."""

  def __init__(self, to: int):
    super().__init__(f'back to step {to}')
    self.to = to


def locate(experiment: Experiment, number: int) -> list[str]:
  """Where in the corpus each row is of the training's batch of a number."""
  settings = experiment.settings
  reader = Reader(
    settings.model.context,
    settings.train.batch_size,
    settings.seed,
    first_batch=number,
  )
  return experiment.corpus.locate(experiment.tokenizer, reader)


class Watch:
  """What looks at the numbers of a run's steps.

  Args:
    experiment: of the run.
    failures: where bad steps are noted.
    rows: of the log, to which others append.
    checkpoints: of the run.
    say: prints a line.
  """

  def __init__(
    self,
    experiment: Experiment,
    failures: Failures,
    rows: Sequence[Mapping[str, float]],
    checkpoints: Checkpoints,
    say: Callable[[str], None],
  ):
    self._experiment = experiment
    self._settings = experiment.settings.train
    self._failures = failures
    self._rows = rows
    self._checkpoints = checkpoints
    self._say = say
    params = jax.eval_shape(experiment.init_state).params
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    self._names = [path_name(path) for path, _ in paths]
    self._norms: list[jax.typing.ArrayLike] = []
    self._last: tuple[Any, Any] = ({}, ())  # metrics and norms of a step

  @property
  def loss_limit(self) -> float:
    """In nats per token; a loss above it is bad."""
    if not self._settings.spike_factor:
      return math.inf
    losses = [row.get('train_loss', math.nan) for row in self._rows[-_ROWS:]]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
      return math.inf
    return float(np.float32(self._settings.spike_factor * np.median(finite)))

  def note(self, metrics: Metrics) -> Metrics:
    """A step's metrics, without those that only a bad step is asked for."""
    metrics = dict(metrics)
    self._norms.append(metrics.pop('gradient_norms'))
    return metrics

  def means(self, pending: Sequence[Metrics], step: int) -> dict[str, float]:
    """Means of the metrics of the steps up to `step`, but for those skipped.

    Raises:
      UserError: for a bad step, if training is to stop, or nothing has helped.
      RolledBackError: if it is to go back.
    """
    fetched, norms = jax.device_get((list(pending), self._norms))
    # Those that were saved with an interrupted run were looked at then.
    norms = [*itertools.repeat(None, len(fetched) - len(norms)), *norms]
    self._norms = []
    first = step - len(fetched) + 1
    for at, metrics, each in zip(
      range(first, step + 1), fetched, norms, strict=True
    ):
      if each is not None and (reason := self._reason(metrics)):
        self._answer(at, reason, metrics, each)
    good = [m for m in fetched if not m.get('skipped')]
    row = {
      name: float(np.mean([m[name] for m in good])) if good else math.nan
      for name in fetched[0]
      if name != 'skipped'
    }
    # Of a run that was interrupted, some steps may not have been to be skipped.
    if any('skipped' in metrics for metrics in fetched):
      row['skipped_steps'] = len(fetched) - len(good)
    self._last = (fetched[-1], norms[-1])
    return row

  def check_validation(self, step: int, loss: float) -> None:
    """Answers a validation loss that is not finite: the update was too large.

    Raises:
      UserError: if training is to stop.
      RolledBackError: if it is to go back.
    """
    if not math.isfinite(loss):
      self._answer(step, f'validation loss is {loss}', *self._last)

  def _reason(self, metrics: Mapping[str, np.ndarray]) -> str:
    """What is bad of a step; empty if nothing is."""
    for name in ('train_loss', 'gradient_norm'):
      if not np.isfinite(metrics[name]):
        return f'{name} is {metrics[name]}'
    if metrics['train_loss'] > self.loss_limit:
      return (
        f'train_loss is above {self._settings.spike_factor:g} times the median '
        f'of the last {_ROWS} rows of the log'
      )
    return 'its update is not finite' if metrics.get('skipped') else ''

  def _answer(
    self,
    step: int,
    reason: str,
    metrics: Mapping[str, np.ndarray],
    norms: np.ndarray,
  ) -> None:
    """Notes a bad step, and does what is to be done."""
    action = self._settings.on_nonfinite
    if action == 'skip' and not metrics['skipped']:
      action = 'stop'  # it has taken place
    batch = self._failures.batch(step)
    failure = Failure(
      step,
      batch,
      action,
      reason,
      float(metrics['train_loss']),
      float(metrics['gradient_norm']),
      self._worst(norms),
      locate(self._experiment, batch),
    )
    if action == 'rollback':
      failure = self._roll_back(failure)
    self._failures.add(failure)
    if action == 'stop':
      self._stop(failure)
    done = 'skipped' if action == 'skip' else f'back to step {failure.to}'
    self._say(f'step {step}: {reason}; {done} ({failure})')
    if action == 'rollback':
      raise RolledBackError(failure.to)
    skipped = self._failures.skipped
    if {step - back for back in range(_SKIPPED)} <= skipped:
      self._stop(failure, f', {_SKIPPED} steps in a row having been skipped')

  def _roll_back(self, failure: Failure) -> Failure:
    """The same, with where it goes back to.

    Raises:
      UserError: if going back there has not helped.
    """
    failure = dataclasses.replace(failure, to=self._checkpoints.recover() or 0)
    before = self._failures.rollbacks[-_ROLLBACKS:]
    if [each.to for each in before] == [failure.to] * _ROLLBACKS:
      self._stop(failure, f' after {_ROLLBACKS} rollbacks to step {failure.to}')
    return failure

  def _stop(self, failure: Failure, why: str = '') -> NoReturn:
    others = (
      '' if why else '; or go on with --config.train.on_nonfinite=rollback'
    )
    raise UserError(
      f'step {failure.step}: {failure.reason}, so training stopped{why} (last '
      f'good checkpoint: {self._checkpoints.named_latest}; {failure}); lower '
      'the learning rate or the clip_norm of config.optimizer, and name a new '
      f'--workdir{others}.'
    )

  def _worst(self, norms: np.ndarray) -> dict[str, float]:
    """The largest norms of gradients, those not finite first, by parameter."""
    named = zip(self._names, map(float, norms), strict=True)
    ordered = sorted(named, key=lambda x: (math.isfinite(x[1]), -x[1]))
    return dict(ordered[:_WORST])
