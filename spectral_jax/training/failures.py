"""The bad steps of a run, kept in its workdir, and the order of its batches.

Each is a line of failures.jsonl. Which batch a step reads follows from the seed
and from the rollbacks in that file, so a run that is stopped and goes on reads
the same ones.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from spectral_jax.errors import UserError
from spectral_jax.training import processes
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.step import Batch
from spectral_jax.training.workdir import json_line, write_text
from spectral_jax.untrusted import parse_json

_FILENAME = 'failures.jsonl'
_SHOWN = 3  # rows of a batch, on a line


@dataclasses.dataclass(frozen=True)
class Failure:
  """A bad step.

  Attributes:
    step: its number.
    batch: the number of the batch that it read, from 0.
    action: stop, skip or rollback.
    reason: what is bad.
    loss: in nats per token.
    gradient_norm: of all parameters.
    worst: the largest norms of gradients, those not finite first, by parameter.
    rows: where each row of the batch is in the corpus.
    to: of a rollback: the step that training went back to.
  """

  step: int
  batch: int
  action: str
  reason: str
  loss: float
  gradient_norm: float
  worst: dict[str, float]
  rows: list[str]
  to: int = 0

  def __str__(self) -> str:
    """What is known of it, for one line."""
    worst = (f'{name} {norm:.3g}' for name, norm in self.worst.items())
    more = len(self.rows) - _SHOWN
    return (
      f'loss {self.loss:.4g}, gradient norm {self.gradient_norm:.3g}, most of '
      f'it in {", ".join(worst)}; batch {self.batch}: '
      + '; '.join(self.rows[:_SHOWN])
      + (f' and {more} more' if more > 0 else '')
    )


class Failures:
  """The bad steps of a run.

  Args:
    experiment: of the run.
    directory: the workdir.

  Raises:
    UserError: if its failures.jsonl cannot be read.
  """

  def __init__(self, experiment: Experiment, directory: Path):
    self._experiment = experiment
    self._path = directory / _FILENAME
    self._all = [
      _failure(line, f'{self._path}, line {number}')
      for number, line in enumerate(
        processes.of_first(lambda: _lines(self._path)), 1
      )
    ]

  @property
  def skipped(self) -> set[int]:
    """The steps that were skipped."""
    return {each.step for each in self._all if each.action == 'skip'}

  @property
  def rollbacks(self) -> list[Failure]:
    """The steps that were rolled back, in the order in which that was done."""
    return [each for each in self._all if each.action == 'rollback']

  def begin(self, done: int) -> None:
    """Forgets the steps after `done`, which will be taken again.

    What was rolled back stays so.
    """
    kept = [f for f in self._all if f.step <= done or f.action == 'rollback']
    if len(kept) < len(self._all):
      self._all = kept
      self._write()

  def add(self, failure: Failure) -> None:
    """Notes a bad step."""
    self._all.append(failure)
    self._write()

  def batch(self, step: int) -> int:
    """The number of the batch that a step reads."""
    ahead = 0
    for failure in self.rollbacks:
      if failure.to < step:
        ahead = failure.batch + 1 - failure.to
    return step - 1 + ahead

  def batches(self, done: int) -> Iterator[Batch]:
    """The batches of the steps after `done`."""
    following = -1
    for step in itertools.count(done + 1):
      number = self.batch(step)
      if number != following:
        batches = self._experiment.train_batches(number)
      yield next(batches)
      following = number + 1

  def _write(self) -> None:
    with processes.together():
      if processes.is_first():
        try:
          write_text(self._path, ''.join(map(_line, self._all)))
        except OSError as error:
          raise UserError(
            f'{self._path}: a bad step cannot be noted ({error.strerror}); '
            'make room, or bring the disk back, and give the same command '
            'again.'
          ) from None


def _lines(path: Path) -> list[str]:
  try:
    return path.read_text().splitlines() if path.exists() else []
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({error}); restore it.') from None


def _failure(line: str, place: str) -> Failure:
  try:
    fields = parse_json(line)
    worst = {name: float(norm) for name, norm in fields['worst'].items()}
    numbers = {name: float(fields[name]) for name in ('loss', 'gradient_norm')}
    failure = Failure(**fields | numbers | {'worst': worst})
    for number in (failure.step, failure.batch, failure.to):
      if type(number) is not int or number < 0:
        raise ValueError(f'expected a number of a step, got {number!r}')
  except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
    raise UserError(
      f'{place}: no failed step ({e}); restore the file, for the order of the '
      'data follows from it.'
    ) from None
  return failure


def _line(failure: Failure) -> str:
  return json_line(dataclasses.asdict(failure))
