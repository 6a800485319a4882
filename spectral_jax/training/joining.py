"""Where several processes meet, and how one joins them."""

import dataclasses
import os
import re
import socket
import sys
import threading

import jax

from spectral_jax.errors import UserError, first_line

# How many processes a launcher has started is in the surroundings of each.
_LAUNCHERS = {
  'SLURM': 'SLURM_STEP_NUM_TASKS',
  'Open MPI': 'OMPI_COMM_WORLD_SIZE',
}
# Seconds after which a process that was killed is missed.
_HEARTBEAT = 30


@dataclasses.dataclass(frozen=True)
class Group:
  """Where the processes meet.

  Attributes:
    distributed: whether the surroundings (Cloud TPU, SLURM or Open MPI) tell;
      None: if SLURM or Open MPI has started several processes.
    coordinator: by hand: HOST:PORT, where process 0 listens.
    process_count: by hand: how many there are.
    process_id: by hand: which of them this is, from 0.
    join_timeout: seconds to wait for the others.
    trains: whether they ask after each step if they are to stop, as SIGTERM
      to one of them says; else SIGTERM ends a process.
  """

  distributed: bool | None
  coordinator: str | None
  process_count: int | None
  process_id: int | None
  join_timeout: int
  trains: bool = True

  def __post_init__(self) -> None:
    by_hand = {
      '--coordinator': self.coordinator,
      '--process_count': self.process_count,
      '--process_id': self.process_id,
    }
    missing = [name for name, value in by_hand.items() if value is None]
    if missing and len(missing) < len(by_hand):
      raise UserError(
        f'{missing[0]}: missing; give {", ".join(by_hand)} together, or none.'
      )
    if self.coordinator is None:
      return
    port = re.fullmatch(r'(?:[^:\s]+|\[[\da-fA-F:]+\]):(\d+)', self.coordinator)
    if not port or not 0 < int(port[1]) < 2**16:
      raise UserError(
        f'--coordinator: expected HOST:PORT, got {self.coordinator!r}.'
      )
    assert self.process_count is not None
    assert self.process_id is not None
    if self.process_id >= self.process_count:
      raise UserError(
        f'--process_id: expected 0 to {self.process_count - 1}, one below '
        f'--process_count, got {self.process_id}.'
      )

  @property
  def has_others(self) -> bool:
    """Whether there are others to join."""
    wanted = self.distributed
    if wanted is None:
      wanted = _launcher() is not None
    return wanted or self.coordinator is not None

  @property
  def name(self) -> str:
    """What tells of the group: a flag or a launcher."""
    if self.coordinator is not None:
      return '--coordinator'
    return _launcher() or '--distributed'


def join(group: Group) -> None:
  """Joins the others; to be called before JAX is asked for devices.

  Where they do not come in time, the process ends here, with one line.

  Raises:
    UserError: if it cannot be told where they meet, or process 0 cannot listen.
  """
  if group.coordinator and group.process_id == 0:
    _check_port(group.coordinator)
  # Its service catches SIGTERM and tells all processes, if they ask it.
  jax.config.update('jax_enable_preemption_service', group.trains)
  # Where the others do not come JAX aborts the process, with a stack trace; so
  # this one ends before.
  waiting = threading.Timer(group.join_timeout, _give_up, (group,))
  waiting.daemon = True
  waiting.start()
  try:
    jax.distributed.initialize(
      group.coordinator,
      group.process_count,
      group.process_id,
      initialization_timeout=2 * group.join_timeout + 60,
      heartbeat_timeout_seconds=_HEARTBEAT,
    )
  except Exception as error:  # each cluster's detection raises its own
    raise UserError(
      f'{group.name}: JAX cannot tell where the processes meet '
      f'({first_line(error)}); give --coordinator, --process_count and '
      '--process_id.'
    ) from error
  finally:
    waiting.cancel()


def _check_port(coordinator: str) -> None:
  port = int(coordinator.rpartition(':')[2])
  try:
    socket.create_server(('', port)).close()
  except OSError as error:
    raise UserError(
      f'--coordinator: process 0 cannot listen on port {port} '
      f'({os.strerror(error.errno or 0)}); name another.'
    ) from None


def _give_up(group: Group) -> None:
  """Ends the process, which waits for others, with a line that says why."""
  problem = 'not all processes came'
  if group.coordinator:
    problem = (
      f'not all {group.process_count} processes came to {group.coordinator}'
    )
    host, _, port = group.coordinator.rpartition(':')
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
    except OSError as error:
      problem = f'nothing answers at {group.coordinator} ({error})'
  print(
    f'error: {group.name}: {problem} within {group.join_timeout} s; start '
    'every process, or wait longer with --join_timeout.',
    file=sys.stderr,
    flush=True,
  )
  os._exit(2)


def _launcher() -> str | None:
  """What has started this process along with others."""
  for name, variable in _LAUNCHERS.items():
    count = os.environ.get(variable, '')
    if count.isdecimal() and int(count) > 1:
      return name
  return None
