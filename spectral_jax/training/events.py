"""Scalars in TensorBoard's event files, by tensorboardX's writer of records.

Its SummaryWriter leaves the writing to a thread. Where a disk is full the
thread ends, and the writer then waits for it for ever.
"""

import contextlib
import math
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

_FLUSH_SECONDS = 5.0


class EventFiles:
  """Appends rows to event files.

  Args:
    folder: where they lie.
    start_step: the step that a run goes on from; what an earlier one wrote of
      later steps is hidden.
  """

  def __init__(self, folder: Path, start_step: int) -> None:
    self._folder = folder
    self._first = start_step + 1
    self._file: RecordWriter | None = None
    self._flushed_at = 0.0
    self._unflushed: list[tuple[float, Mapping[str, float]]] = []

  def write(self, row: Mapping[str, float]) -> None:
    """Appends a row, which has the key `step`.

    Raises:
      OSError: if it cannot; the next call tries again, in a new file.
    """
    self._unflushed.append((time.time(), row))
    with self._given_up_if_it_fails():
      if self._file is None:
        self._open()
      else:
        self._add(*self._unflushed[-1])
      if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
        self._flush()

  def close(self) -> None:
    """Brings what is left to the disk.

    Raises:
      OSError: if it cannot.
    """
    with self._given_up_if_it_fails():
      if self._unflushed:
        if self._file is None:
          self._open()
        self._flush()
    self._give_up()

  @contextlib.contextmanager
  def _given_up_if_it_fails(self) -> Iterator[None]:
    try:
      yield
    except OSError:
      self._give_up()  # the last record may be torn, so no other follows it
      raise

  def _give_up(self) -> None:
    file, self._file = self._file, None
    if file is not None:
      with contextlib.suppress(OSError):
        file.close()

  def _open(self) -> None:
    """Begins a file, with what is missing in others."""
    self._folder.mkdir(exist_ok=True)
    # TensorBoard reads files in this order; a quick restart must not overwrite
    # one.
    name = f'{time.time():.0f}.{socket.gethostname()}.from_step_{self._first}'
    self._file = RecordWriter(f'{self._folder}/events.out.tfevents.{name}')
    self._record(Event(file_version='brain.Event:2', wall_time=time.time()))
    start = SessionLog(status=SessionLog.START)
    self._record(Event(step=self._first, session_log=start))
    for missing in self._unflushed:
      self._add(*missing)

  def _add(self, when: float, row: Mapping[str, float]) -> None:
    step = int(row['step'])
    for name, value in row.items():
      # TensorBoard draws no other number.
      if name != 'step' and math.isfinite(value):
        summary = scalar(name, value)
        self._record(Event(step=step, wall_time=when, summary=summary))

  def _record(self, event: Event) -> None:
    assert self._file is not None
    self._file.write(event.SerializeToString())

  def _flush(self) -> None:
    assert self._file is not None
    self._file.flush()
    self._flushed_at = time.monotonic()
    self._first = int(self._unflushed[-1][1]['step']) + 1
    self._unflushed = []
