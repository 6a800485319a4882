"""Several processes that train as one: how they agree and part.

Each runs the same program on its own devices. What all of them compute they
compute alike; process 0 alone prints and writes files. A process that has an
error tells it, and none waits for ever for one that is gone.
"""

import contextlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from spectral_jax.errors import UserError, first_line
from spectral_jax.training.joining import Group, join

T = TypeVar('T')

# Seconds that a process with an error gives the others to end as well.
_PARTING = 5
# What a process exits with that has lost another.
_LOST = 2


def is_first() -> bool:
  """Whether this process is the one that prints and writes files."""
  return jax.process_index() == 0


@contextlib.contextmanager
def joined(group: Group, told: Mapping[str, object]) -> Iterator[None]:
  """Makes this process one of a group, if it is to be one, until it ends.

  To be entered before anything else asks JAX for devices.

  Args:
    group: where they meet.
    told: what all of them must be told alike, plain values by the names of
      flags.

  Raises:
    UserError: if the others cannot be met, or were told otherwise. Where one
      is lost, this process ends, with a line.
  """
  if not group.has_others:
    yield
    return
  join(group)
  try:
    _check_devices()
    _mute()
    _agree(told)
    yield
  except BaseException as error:
    # JAX has a process that ends wait for the others; but they may be waiting
    # for this one.
    _end_after(_PARTING)
    if _is_of_device(error):
      print(
        f'error: process {jax.process_index()} of {jax.process_count()}: '
        f'another process is lost, or a device failed ({first_line(error)}); '
        'the same command, with any number of processes, goes on from the last '
        'checkpoint.',
        file=sys.stderr,
        flush=True,
      )
      # On its way out JAX would abort, with a stack trace.
      os._exit(_LOST)
    raise


@contextlib.contextmanager
def together() -> Iterator[None]:
  """What all processes do or none: an error of one is raised in all.

  Within it nothing may be computed that takes several processes.

  Raises:
    UserError: that of this process, or else the first of the others.
  """
  problem = None
  try:
    yield
  except UserError as error:
    problem = error
  problems = exchange(str(problem or ''))
  if problem:
    raise problem
  for index, line in enumerate(problems):
    if line:
      raise UserError(f'process {index}: {line}')


def of_first(make: Callable[[], T]) -> T:
  """What process 0 makes, in all of them: a plain value.

  Raises:
    UserError: that of process 0.
  """
  made = None
  with together():
    if is_first():
      made = make()
  if not jax.distributed.is_initialized():
    return cast(T, made)
  return cast(T, json.loads(exchange(json.dumps(made))[0]))


def on_host(tree: Any) -> Any:
  """Whole arrays in each process's own memory; all processes ask for them."""
  return multihost_utils.process_allgather(tree, tiled=True)


def exchange(text: str) -> list[str]:
  """What each process says here, by process."""
  if not jax.distributed.is_initialized():
    return [text]
  said = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array([said.size])).ravel()
  padded = np.pad(said, (0, lengths.max() - said.size))
  rows = multihost_utils.process_allgather(padded).reshape(lengths.size, -1)
  return [
    bytes(row[:length]).decode()
    for row, length in zip(rows, lengths, strict=True)
  ]


def _check_devices() -> None:
  counts = Counter(device.process_index for device in jax.devices())
  if len(set(counts.values())) > 1:
    raise UserError(
      'devices: expected as many in each process, got '
      f'{", ".join(str(counts[index]) for index in sorted(counts))}.'
    )


def _mute() -> None:
  """Leaves it to process 0 to print, and to nothing but Python.

  Gloo, which CPUs talk through, prints its connections to the descriptor.
  """
  nowhere = os.open(os.devnull, os.O_WRONLY)
  spoken = os.dup(1) if is_first() else nowhere
  sys.stdout.flush()
  os.dup2(nowhere, 1)
  sys.stdout = os.fdopen(spoken, 'w', buffering=1, encoding=sys.stdout.encoding)


def _agree(told: Mapping[str, object]) -> None:
  """Raises UserError, in every process, unless all were told the same."""
  first, *others = map(json.loads, exchange(json.dumps(told)))
  for index, other in enumerate(others, 1):
    for name, value in first.items():
      if other[name] != value:
        raise UserError(
          f'{name}: expected the same in all processes, got {value!r} in '
          f'process 0 and {other[name]!r} in process {index}.'
        )


def _is_of_device(error: BaseException) -> bool:
  """Whether XLA raised it; what a collective lacked comes as ValueError too."""
  status = re.match(r'[A-Z_]+: ', str(error)) is not None
  return isinstance(error, jax.errors.JaxRuntimeError) or (
    isinstance(error, ValueError)
    and not isinstance(error, UserError)
    and status
  )


def _end_after(seconds: int) -> None:
  ending = threading.Timer(seconds, os._exit, (2,))
  ending.daemon = True
  ending.start()
