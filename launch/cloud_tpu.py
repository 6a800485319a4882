"""A Cloud TPU by its queued resource: gcloud's commands, and how it stands."""

import dataclasses
import json
import re
import shlex
import subprocess
import time

PATIENCE = 3  # questions that a worker may leave without an answer
OUTAGE = 30  # those that Cloud TPU may, or our own network
_LOST_QUEUED = ('FAILED', 'SUSPENDING', 'SUSPENDED')
_LOST_VM = ('PREEMPTED', 'TERMINATED', 'STOPPING', 'STOPPED', 'DELETING')
_SCRIPT = 'spectral_jax/launch/worker.sh'


class StopError(Exception):
  """What ends the launcher: one line that names the mend."""


class UnclearError(StopError):
  """It cannot be told whether the TPU is there, or it is not ours to delete."""


class LostError(Exception):
  """The TPU or one of its workers is gone; another TPU can go on."""


class UnreachedError(LostError):
  """No way leads to a worker: it is gone, or our own network is at fault."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a command gave: its exit status, its output, and why it failed."""

  status: int
  output: bytes = b''
  reason: str = ''

  def is_missing(self) -> bool:
    """Whether it failed because there is no such thing."""
    return self.status != 0 and 'NOT_FOUND' in self.reason


@dataclasses.dataclass(frozen=True)
class State:
  """A queued resource's state, NONE if there is none, and why it failed."""

  name: str
  failure: str = ''

  def is_lost(self) -> bool:
    """Whether no TPU will come of it any more."""
    return self.name in _LOST_QUEUED


def reason(error_output: str) -> str:
  """The line of a command's error output that says why it failed."""
  lines = [line.strip() for line in error_output.splitlines() if line.strip()]
  # worker.sh and uv write the first, gcloud the second, which may only say that
  # the first one was there.
  for mark in ('error: ', 'ERROR: '):
    for line in lines:
      if line.startswith(mark):
        told = re.sub(r'^\(gcloud\S*\) ', '', line.removeprefix(mark))
        return told.rstrip('.')
  return lines[-1].rstrip('.') if lines else 'no message'


def worker(*command: str) -> str:
  """The command line that runs worker.sh on a worker."""
  return shlex.join(['bash', _SCRIPT, *command])


@dataclasses.dataclass(frozen=True)
class CloudTpu:
  """A queued resource and its one TPU, both called `name`.

  Attributes:
    name: of both.
    zone: where it is.
    project: where it is paid; None takes gcloud's own.
    poll: seconds between two questions.
    dry_run: prints each command and takes what it is told for the answer.
  """

  name: str
  zone: str
  project: str | None
  poll: float
  dry_run: bool

  def say(self, line: str) -> None:
    """Tells the user what happens."""
    mark = '#' if self.dry_run else time.strftime('%H:%M:%S')
    print(f'{mark} {line}', flush=True)

  def pause(self) -> None:
    """Waits until the next question."""
    if not self.dry_run:
      time.sleep(self.poll)

  def again(self, verb: str) -> str:
    """The command line of another verb of the launcher for this TPU."""
    project = [f'--project={self.project}'] if self.project else []
    where = [f'--name={self.name}', f'--zone={self.zone}', *project]
    return shlex.join(['python', 'launch/tpu_vm.py', verb, *where])

  def gcloud(self, *command: str, pretend: str = '') -> Answer:
    """Runs gcloud; a dry run prints it, and `pretend` is its output."""
    project = [f'--project={self.project}'] if self.project else []
    full = ['gcloud', *command, *project, '--quiet']
    if self.dry_run:
      print(shlex.join(full), flush=True)
      return Answer(0, pretend.encode())
    done = subprocess.run(
      full, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    why = reason(done.stderr.decode(errors='replace'))
    return Answer(done.returncode, done.stdout, why)

  def queued(self, verb: str, *options: str, pretend: str = '') -> Answer:
    """Runs a command on the queued resource."""
    command = ('compute', 'tpus', 'queued-resources', verb, self.name)
    return self.gcloud(
      *command, f'--zone={self.zone}', *options, pretend=pretend
    )

  def copy(self, path: str) -> Answer:
    """Copies a file to the home directory of every worker."""
    return self.gcloud(
      *('compute', 'tpus', 'tpu-vm', 'scp', path, f'{self.name}:'),
      *(f'--zone={self.zone}', '--worker=all'),
    )

  def ssh(self, workers: str, command: str, pretend: str = '') -> Answer:
    """Runs a command on a worker, or 'all'; status 255: one is not reached."""
    return self.gcloud(
      *('compute', 'tpus', 'tpu-vm', 'ssh', self.name, f'--zone={self.zone}'),
      *(f'--worker={workers}', f'--command={command}'),
      # A worker that is gone must not keep us waiting for ever.
      '--ssh-flag=-o ConnectTimeout=20',
      '--ssh-flag=-o ServerAliveInterval=20',
      pretend=pretend,
    )

  def report(self, offset: int) -> tuple[Answer, str, bytes]:
    """How the training on worker 0 stands, and its log from a byte on.

    It stands 'idle' (never started), 'running', 'ended STATUS', or 'killed'.
    """
    command = worker('report', str(offset))
    answer = self.ssh(
      '0',
      f'if [ -f {_SCRIPT} ]; then {command}; else echo idle; fi',
      pretend='ended 0',
    )
    stands, _, log = answer.output.partition(b'\n')
    return answer, stands.decode(), log

  def state(self, pretend: str, patience: int = 1) -> State:
    """Asks for the state, `patience` times at most.

    Raises:
      UnclearError: if there was no answer.
    """
    for attempt in range(patience):
      answer = self.queued(
        'describe',
        '--format=json',
        pretend=json.dumps({'state': {'state': pretend}}),
      )
      if answer.status == 0:
        state = json.loads(answer.output).get('state', {})
        failure = state.get('failedData', {}).get('error', {})
        return State(state.get('state', ''), failure.get('message', ''))
      if answer.is_missing():
        return State('NONE')
      if attempt + 1 < patience:
        self.say(f'cannot ask for {self.name} ({answer.reason}); trying again')
        self.pause()
    raise UnclearError(
      f'gcloud cannot tell how {self.name} is ({answer.reason}); if it is '
      f'there, it costs money: mend that and go on, or {self.again("delete")}'
    )

  def check(self) -> None:
    """Asks Cloud TPU whether the TPU is still there.

    Raises:
      LostError: if it was taken away.
      StopError: if somebody deleted it.
    """
    state = self.state('ACTIVE', OUTAGE)
    if state.name == 'NONE':
      raise StopError(f'{self.name} was deleted by somebody else.')
    if state.is_lost():
      raise LostError(f'{self.name} is {state.name}')
    vm = self.gcloud(
      *('compute', 'tpus', 'tpu-vm', 'describe', self.name),
      *(f'--zone={self.zone}', '--format=value(state)'),
      pretend='READY',
    )
    if (name := vm.output.decode().strip()) in _LOST_VM:
      raise LostError(f'the VM is {name}')

  def check_workers(self) -> None:
    """Asks, for some time, whether all workers are still there.

    A preemption shows on the workers before it shows in the state.

    Raises:
      LostError: if one is not.
      StopError: if somebody deleted the TPU.
    """
    for _ in range(PATIENCE):
      self.pause()
      self.check()
      answer = self.ssh('all', worker('alive'))
      if answer.status:
        raise LostError(f'a worker is lost ({answer.reason})')

  def check_done(self, step: str, answer: Answer) -> None:
    """Checks that a step on the workers succeeded.

    Raises:
      LostError: if it failed because of the TPU.
      StopError: if it failed for another reason.
    """
    if answer.status:
      self.check()
      if answer.status == 255:
        raise UnreachedError(f'a worker cannot be reached ({answer.reason})')
      raise StopError(f'{step} failed: {answer.reason}.')
