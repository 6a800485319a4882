"""One run at a time trains in a workdir.

Who trains holds `lock` by flock, which ends with its process, and tells in
`owner.json` who it is. Where hosts do not see each other's flock, as in a
bucket that is mounted as a folder, an owner on another host is alive as long as
it writes that file again and again.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from spectral_jax import untrusted
from spectral_jax.errors import UserError
from spectral_jax.training import console, processes, workdir

_LOCK = 'lock'
_OWNER = 'owner.json'
# Seconds between two signs of life; how long one on another host is waited for;
# and after how many, should the clocks differ a little, one need not wait.
_BEAT = 20.0
_PATIENCE = 100.0
_LONG = 900.0


@dataclasses.dataclass(frozen=True)
class _Owner:
  """Who trains: host and process, since when, and when it last said so."""

  host: str
  process: int
  since: float
  seen: float

  def __str__(self) -> str:
    minutes = max(0.0, time.time() - self.since) / 60
    return f'process {self.process} on {self.host}, for {minutes:.0f} min'

  def is_same(self, other: '_Owner | None') -> bool:
    return other is not None and (self.host, self.process, self.since) == (
      other.host,
      other.process,
      other.since,
    )


@contextlib.contextmanager
def taken(directory: Path) -> Iterator[None]:
  """Makes a workdir and keeps other runs out of it; all processes call it.

  Raises:
    UserError: if the folder will not do, or another run trains in it.
  """
  with contextlib.ExitStack() as stack:
    with processes.together():
      if processes.is_first():
        workdir.make(directory)
        stack.enter_context(_owned(directory))
    yield


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[None]:
  now = time.time()
  owner = _Owner(socket.gethostname(), os.getpid(), now, now)
  with contextlib.ExitStack() as stack:
    try:
      lock = stack.enter_context((directory / _LOCK).open('a'))
      _take(directory, _flock(lock), owner)
    except OSError as error:
      raise UserError(
        f'--workdir: cannot write in {directory}: {error.strerror}; make room '
        'or name another.'
      ) from None
    ended = threading.Event()
    beating = threading.Thread(
      target=_beat, args=(directory, owner, ended), daemon=True
    )
    beating.start()
    try:
      yield
    finally:
      ended.set()
      beating.join()
      with contextlib.suppress(OSError):
        (directory / _OWNER).unlink(missing_ok=True)


def _flock(lock: TextIO) -> bool | None:
  """Whether this process has the lock; None where there are no locks."""
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


def _take(directory: Path, has_lock: bool | None, owner: _Owner) -> None:
  """Writes the owner, unless the one before may live and gives a sign of it."""
  before = _read(directory)
  if has_lock is False:
    _refuse(directory, before)
  if before:
    # Of a host's own processes its locks tell for sure.
    sure = has_lock and before.host == owner.host
    if not sure and time.time() - before.seen < _LONG:
      console.tell(f'lock: {before}, trained here; waiting for a sign of life')
      until = time.monotonic() + _PATIENCE
      while time.monotonic() < until:
        if _read(directory) != before:
          _refuse(directory, before)
        time.sleep(_BEAT / 10)
    console.tell(f'lock: {before}, is gone; its lock is taken over')
  _write(directory, owner)


def _beat(directory: Path, owner: _Owner, ended: threading.Event) -> None:
  """Says again and again that the owner lives, until it has ended."""
  while not ended.wait(_BEAT):
    found = _read(directory)
    if found is not None and not owner.is_same(found):
      # This process slept, or its network did. It must write no more.
      print(
        f'error: {directory}: {found}, has taken over; this run ends.',
        file=sys.stderr,
        flush=True,
      )
      os._exit(2)
    with contextlib.suppress(OSError):  # a full disk, or one that is away
      _write(directory, dataclasses.replace(owner, seen=time.time()))


def _read(directory: Path) -> _Owner | None:
  try:
    found = untrusted.read_json(directory / _OWNER)
    return _Owner(
      str(found['host']),
      int(found['process']),
      float(found['since']),
      float(found['seen']),
    )
  except (OSError, ValueError, TypeError, KeyError, OverflowError):
    return None


def _write(directory: Path, owner: _Owner) -> None:
  text = json.dumps(dataclasses.asdict(owner)) + '\n'
  workdir.write_text(directory / _OWNER, text)


def _refuse(directory: Path, owner: _Owner | None) -> NoReturn:
  raise UserError(
    f'--workdir: another run trains in {directory} ({owner or "just begun"}); '
    'wait until it has ended, stop it, or name another workdir.'
  )
