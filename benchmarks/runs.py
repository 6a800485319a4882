"""Runs of train.py: one for each row, number of steps and seed."""

import contextlib
import dataclasses
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from configs import paper
from spectral_jax.errors import UserError
from spectral_jax.training.reading import describe_type
from spectral_jax.training.workdir import (
  differences,
  flatten,
  holds_run,
  read_json,
  read_recipe,
)

_REPOSITORY = Path(__file__).parent.parent
_POLL_SECONDS = 0.1


def recipe(base: str, flags: Iterable[str]) -> dict[str, Any]:
  """A row of configs/paper.py with flags `--config.KEY=VALUE`, flattened.

  Raises:
    UserError: for a value that is not of the key's type.
  """
  flat = flatten(paper.get_config(base).to_dict())
  for flag in flags:
    key, _, value = flag.removeprefix('--').partition('=')
    kind = type(flat.get(key, ''))
    try:
      flat[key] = kind(value)
    except ValueError:
      raise UserError(f'{flag}: expected {describe_type(kind)}.') from None
  return flat


@dataclasses.dataclass(frozen=True)
class Run:
  """A row, trained for some steps from one seed.

  Attributes:
    row: which.
    steps: optimizer steps.
    seed: of the parameters and the order of the data.
    flags: for train.py, over those of the row.
    workdir: of the benchmark; the run's own folder lies in it.
  """

  row: Row
  steps: int
  seed: int
  flags: tuple[str, ...]
  workdir: Path

  @property
  def name(self) -> str:
    """Of the folder, below that of all runs."""
    return f'{self.row.name}-{self.steps}/seed-{self.seed}'

  @property
  def folder(self) -> Path:
    """The run's workdir."""
    return self.workdir / 'runs' / self.name

  def _all_flags(self) -> tuple[str, ...]:
    return (
      *self.row.flags,
      *self.flags,
      f'--config.name={self.row.name}',
      f'--config.seed={self.seed}',
      f'--config.train.steps={self.steps}',
    )

  def command(self) -> list[str]:
    """The command that trains it, from the repository's root."""
    return [
      sys.executable,
      'train.py',
      f'--config=configs/paper.py:{self.row.base}',
      f'--workdir={self.folder}',
      *self._all_flags(),
    ]

  def finished(self) -> bool:
    """Whether it was trained to its last step.

    Raises:
      UserError: if what is in its folder is damaged, or of another recipe; it
        names the row and the keys.
    """
    wanted = recipe(self.row.base, self._all_flags())
    summary = self.folder / 'summary.json'
    if not summary.exists() and not holds_run(self.folder):
      return False
    # A run that is older than a key was trained as the key's default says.
    there = recipe(self.row.base, ()) | flatten(read_recipe(self.folder))
    if differing := differences(there, wanted):
      raise UserError(
        f'row {self.row.name}: {self.folder} holds a run of another config '
        f'({differing}); delete that folder or name another --workdir.'
      )
    return summary.exists() and read_json(summary).get('steps') == self.steps


@dataclasses.dataclass(frozen=True)
class Event:
  """What happens to a run: it is `started`, then `finished` or `failed`.

  Attributes:
    run: which.
    kind: started, finished or failed.
    seconds: since it was started.
    error: why it failed, in one line.
  """

  run: Run
  kind: str
  seconds: float = 0.0
  error: str = ''


def train(runs: Sequence[Run], jobs: int) -> Generator[Event]:
  """Trains runs, `jobs` at a time, each on its own share of the CPU cores.

  Close the iterator to stop what runs; train.py goes on from its checkpoints.
  """
  waiting = list(runs)
  active: dict[int, tuple[Run, subprocess.Popen[bytes], float]] = {}
  try:
    while waiting or active:
      for slot in sorted(set(range(jobs)) - active.keys())[: len(waiting)]:
        run = waiting.pop(0)
        try:
          active[slot] = run, _start(run, _cores(slot, jobs)), time.monotonic()
        except BlockingIOError:
          error = 'another process trains it; wait until that has ended'
          yield Event(run, 'failed', error=error)
        else:
          yield Event(run, 'started')
      time.sleep(_POLL_SECONDS)
      for slot, (run, process, started) in list(active.items()):
        if process.poll() is None:
          continue
        del active[slot]
        seconds = time.monotonic() - started
        # One that was interrupted, by a signal of its own, ends well too.
        if process.returncode or not run.finished():
          yield Event(run, 'failed', seconds, _last_line(run))
        else:
          yield Event(run, 'finished', seconds)
  finally:
    for _, process, _ in active.values():
      process.terminate()
    for _, process, _ in active.values():
      process.wait()


def _log(run: Run) -> Path:
  return run.folder / 'output.log'


def _cores(slot: int, jobs: int) -> list[int]:
  """The share of one of the jobs; none where the system cannot pin."""
  if jobs == 1 or not hasattr(os, 'sched_getaffinity'):
    return []
  cores = sorted(os.sched_getaffinity(0))
  return cores[slot::jobs] or [cores[slot % len(cores)]]


def _start(run: Run, cores: Sequence[int]) -> 'subprocess.Popen[bytes]':
  """Starts a run.

  Raises:
    BlockingIOError: if a process trains it already.
  """
  run.folder.mkdir(parents=True, exist_ok=True)
  with _log(run).open('a') as log:
    # The child keeps the lock for as long as it lives, also without us.
    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print(f'$ {shlex.join(run.command())}', file=log, flush=True)
    process = subprocess.Popen(
      run.command(),
      cwd=_REPOSITORY,
      env=os.environ | {'PYTHONUNBUFFERED': '1'},  # an error is the last line
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
    )
  if cores:
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, cores)
  return process


def _last_line(run: Run) -> str:
  lines = _log(run).read_text(errors='replace').split('\n')
  return next((line for line in reversed(lines) if line.strip()), '')
