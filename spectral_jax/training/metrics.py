"""The numbers of a run: one JSON line a row, and the same for TensorBoard."""

import pathlib
from collections.abc import Mapping
from typing import Self

from spectral_jax.errors import UserError
from spectral_jax.training.events import EventFiles
from spectral_jax.training.outage import Outages
from spectral_jax.training.workdir import json_line, write_text
from spectral_jax.untrusted import parse_json

_FILENAME = 'metrics.jsonl'


class MetricsLog:
  """Appends scalars to `metrics.jsonl` and to TensorBoard event files.

  Every row is on disk when `write` returns, so a killed run loses none. Where
  it cannot be written, this is told once, and tried again with the next. JSON
  has no word for NaN and infinity: they are written as the strings 'nan',
  'inf' and '-inf', which `float` reads back, so the file stays valid JSON.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as name:
  ...   with MetricsLog(pathlib.Path(name), start_step=0) as log:
  ...     log.write(100, {'train_loss': 2.5})
  ...   read_metrics(pathlib.Path(name))
  [{'step': 100, 'train_loss': 2.5}]

  Args:
    workdir: The run's folder; made if it is not there.
    start_step: The step this run goes on from, 0 for a fresh one. Rows of later
      steps come from a run that was killed after its last checkpoint; they are
      dropped here and hidden in TensorBoard, for they will be written again.
    writes: Whether there are files to append to; of several processes one has
      them.

  Attributes:
    rows: All rows, those kept from before first; each has the key 'step'.

  Raises:
    UserError: If an earlier `metrics.jsonl` has a line that is not JSON.
  """

  def __init__(
    self, workdir: pathlib.Path, *, start_step: int, writes: bool = True
  ) -> None:
    self.rows = [
      row for row in read_metrics(workdir) if row['step'] <= start_step
    ]
    self._writes = writes
    if not writes:
      return
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / _FILENAME
    self._outages = Outages()
    self._is_whole = False  # whether the file has all rows but a new one
    with self._outages.borne(_FILENAME):
      self._append(self.rows)
    self._events = EventFiles(workdir / 'tensorboard', start_step)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one row; the values are Python, numpy or JAX scalars."""
    row = {'step': step} | {key: float(value) for key, value in values.items()}
    self.rows.append(row)
    if not self._writes:
      return
    with self._outages.borne(_FILENAME):
      self._append([row])
    with self._outages.borne('tensorboard'):
      self._events.write(row)

  def close(self) -> None:
    """Flushes and closes all files; a second call does nothing."""
    if self._writes:
      with self._outages.borne('tensorboard'):
        self._events.close()

  def _append(self, new: list[dict[str, float]]) -> None:
    """Writes the new rows; if some were not, or in part, all of them."""
    if self._is_whole:
      self._is_whole = False
      # Closed each time, for a bucket that is mounted as a folder is written
      # to when files are closed.
      with self._path.open('a', encoding='ascii') as file:
        file.writelines(map(json_line, new))
    else:
      write_text(self._path, ''.join(map(json_line, self.rows)))
    self._is_whole = True

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the rows of a run, finished or under way, oldest first.

  A last line that was torn by a kill in mid-write is left out. A run that has
  written nothing has no rows.

  Raises:
    UserError: If a line is no JSON object of numbers, with its number.
  """
  path = workdir / _FILENAME
  if not path.exists():
    return []
  *lines, _ = path.read_text(encoding='ascii', errors='replace').split('\n')
  return [
    _row(line, f'{path}, line {number}') for number, line in enumerate(lines, 1)
  ]


def _row(line: str, place: str) -> dict[str, float]:
  try:
    row = parse_json(line)
    return {'step': _number(row['step'])} | {
      key: _number(value) for key, value in row.items()
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'{place}: expected a JSON object of numbers with a step, got '
      f'{line[:40]!r}; delete that line'
    ) from error


def _number(value: object) -> float:
  if isinstance(value, str):
    return float(value)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise TypeError('no number')
  return value
