"""Signals that ask a run to stop, and the step at which it does.

SIGTERM, which schedulers send some time before they kill, and Ctrl-C end at
once what loses nothing by it: reading data, drawing. While a run trains they
are held until the step under way, with its evaluation and its checkpoint, is
done. Of several processes a signal to one stops all of them, after the same
step: JAX's preemption service tells the others.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from spectral_jax.training import console

_STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130}


class Interruption:
  """Heeds the signals; a context manager, of the main thread.

  One that is not entered heeds none.

  Attributes:
    by: the signal that has stopped the run; None as long as none has.
  """

  def __init__(self) -> None:
    self.by: signal.Signals | None = None
    self._asked: signal.Signals | None = None
    self._held = False
    self._lock = threading.Lock()  # of the last two
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> Self:
    # A handler has to wait while the program is not in Python, as when it
    # compiles, and what it raises is lost in a `__del__`: so it does nothing,
    # and a thread reads of the signals from a socket.
    reads, self._writes = socket.socketpair()
    self._writes.setblocking(False)
    signal.set_wakeup_fd(self._writes.fileno())
    threading.Thread(target=self._watch, args=(reads,), daemon=True).start()
    # One that is ignored stays so: a shell starts what is in its background
    # with Ctrl-C ignored.
    self._before = {
      number: signal.signal(number, lambda *_: None)
      for number in _STATUS
      if signal.getsignal(number) is not signal.SIG_IGN
    }
    return self

  def __exit__(self, *exception: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    self._writes.close()

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Within it signals wait, to be asked for by `reached`."""
    with self._lock:
      self._held = True
    try:
      yield
    finally:
      with self._lock:
        self._held = False
        if not jax.distributed.is_initialized():
          self.by = self._asked

  def reached(self, step: int) -> bool:
    """Whether to stop after a step; all processes ask, after each."""
    if jax.distributed.is_initialized():
      if multihost_utils.reached_preemption_sync_point(step):
        self.by = self._asked or signal.SIGTERM
    else:
      self.by = self._asked
    return self.by is not None

  def _watch(self, reads: socket.socket) -> None:
    """Heeds one signal after the other, whatever the program is doing."""
    with reads:
      while number := reads.recv(1):
        self._take(signal.Signals(number[0]))

  def _take(self, by: signal.Signals) -> None:
    with self._lock:
      if not self._held or self._asked is by is signal.SIGINT:
        _end(by)
      self._asked = self._asked or by
    if by is signal.SIGINT:
      print(
        '\ninterrupted: the step under way is finished and saved; Ctrl-C '
        'again ends at once',
        file=sys.stderr,
        flush=True,
      )
      if jax.distributed.is_initialized():
        # It is JAX's by then, which tells the other processes.
        signal.raise_signal(signal.SIGTERM)


def told(by: signal.Signals) -> int:
  """Prints that a run was interrupted; returns what its process exits with."""
  console.tell('interrupted; the same command goes on from the last checkpoint')
  return _STATUS[by]


def _end(by: signal.Signals) -> None:
  """Ends this process where it is."""
  try:
    console.show_cursor()
    told(by)
  finally:
    os._exit(_STATUS[by])
