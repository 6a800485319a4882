"""What the launcher does: the steps of a training on a Cloud TPU, and all."""

import dataclasses
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from cloud_tpu import (
  OUTAGE,
  PATIENCE,
  CloudTpu,
  LostError,
  StopError,
  UnclearError,
  UnreachedError,
  worker,
)

_REPOSITORY = Path(__file__).resolve().parent.parent
_QUOTA = (
  'Ask for more at https://console.cloud.google.com/iam-admin/quotas (spot '
  'TPUs have a quota of their own), or take another --type or --zone.'
)


@dataclasses.dataclass(frozen=True)
class Job:
  """A training, and the TPU it wants.

  Attributes:
    tpu: where it is, or will be.
    accelerator: the accelerator type.
    runtime: the runtime version.
    create_flags: more flags for the creation of the queued resource.
    wait_hours: the longest wait for a TPU.
    restarts: new TPUs that may be made for lost ones.
    keep: whether the TPU stays when all is done.
    bucket: the Cloud Storage bucket that keeps the run.
    run: the run's folder in the bucket.
    target: where the run is fetched to.
    train_flags: for train.py.
  """

  tpu: CloudTpu
  accelerator: str
  runtime: str
  create_flags: tuple[str, ...]
  wait_hours: float
  restarts: int
  keep: bool
  bucket: str
  run: str
  target: Path
  train_flags: tuple[str, ...]


def _raise_refused(job: Job, why: str) -> NoReturn:
  mend = _QUOTA if re.search('quota', why, re.I) else 'Mend that and try again.'
  raise StopError(f'no {job.accelerator}: {why.rstrip(".")}. {mend}')


def _request(job: Job) -> None:
  """Asks for the TPU."""
  job.tpu.say(
    f'asking for {job.tpu.name}, a {job.accelerator} in {job.tpu.zone}'
  )
  answer = job.tpu.queued(
    'create',
    f'--node-id={job.tpu.name}',
    f'--accelerator-type={job.accelerator}',
    f'--runtime-version={job.runtime}',
    '--scopes=https://www.googleapis.com/auth/cloud-platform',
    *job.create_flags,
  )
  if answer.status:
    _raise_refused(job, answer.reason)


def _wait(job: Job) -> None:
  """Waits until the TPU is there."""
  job.tpu.say(
    f'waiting for {job.tpu.name} to be ACTIVE: asking every '
    f'{job.tpu.poll:g} s, for {job.wait_hours:g} h at most'
  )
  begin, told = time.monotonic(), ''
  while True:
    state = job.tpu.state('ACTIVE', OUTAGE)
    waited = time.monotonic() - begin
    if state.name != told:
      job.tpu.say(f'{job.tpu.name} is {state.name} after {waited / 60:.0f} min')
      told = state.name
    if state.name == 'ACTIVE':
      return
    if re.search('quota', state.failure, re.I):
      _raise_refused(job, state.failure)
    if state.is_lost():
      raise LostError(
        f'{job.tpu.name} is {state.name} {state.failure}'.rstrip()
      )
    if state.name == 'NONE':
      raise StopError(f'{job.tpu.name} was deleted by somebody else.')
    if waited > job.wait_hours * 3600:
      raise StopError(
        f'--wait_hours: no TPU within {job.wait_hours:g} h; give it more, or '
        'try another --zone or --type.'
      )
    job.tpu.pause()


def git(*command: str) -> str:
  """What a git command on this checkout prints.

  Raises:
    StopError: if it fails.
  """
  full = ['git', '-C', str(_REPOSITORY), *command]
  try:
    done = subprocess.run(full, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError) as error:
    raise StopError(
      f'{shlex.join(full)} fails ({error}); the workers get the HEAD of a git '
      'checkout: install git, and git clone the project.'
    ) from error
  return done.stdout.strip()


def install(job: Job) -> None:
  """Brings HEAD, and all that it needs, to the workers."""
  job.tpu.say(f'installing {git("log", "-1", "--format=%h")} on all workers')
  if changed := len(git('status', '--porcelain').splitlines()):
    job.tpu.say(
      f'note: {changed} files here are not as in HEAD, which is installed'
    )
  with tempfile.TemporaryDirectory() as folder:
    archive = f'{folder}/spectral_jax.tar.gz'
    git('archive', f'--output={archive}', 'HEAD')
    for _ in range(PATIENCE):
      copied = job.tpu.copy(archive)
      if copied.status == 0:
        break
      job.tpu.say(f'the workers do not let us in yet ({copied.reason})')
      job.tpu.pause()
  job.tpu.check_done('copying to the workers', copied)
  unpack = (
    'rm -rf spectral_jax && mkdir spectral_jax && '
    'tar -xzf spectral_jax.tar.gz -C spectral_jax'
  )
  install = worker('install', job.bucket)
  job.tpu.check_done('installing', job.tpu.ssh('all', f'{unpack} && {install}'))


def start(job: Job) -> None:
  """Starts train.py on all workers."""
  job.tpu.say(f'starting train.py {shlex.join(job.train_flags)}'.rstrip())
  command = worker('start', job.run, *job.train_flags)
  job.tpu.check_done('starting', job.tpu.ssh('all', command))


def follow(job: Job) -> None:
  """Shows the log of worker 0 until the training has ended."""
  job.tpu.say(f'following the log of worker 0: asking every {job.tpu.poll:g} s')
  offset = failures = 0
  while True:
    answer, stands, log = job.tpu.report(offset)
    if answer.status:
      job.tpu.check()
      failures += 1
      if failures == PATIENCE:
        raise LostError(f'worker 0 cannot be reached ({answer.reason})')
      job.tpu.say(f'worker 0 does not answer ({answer.reason}); trying again')
      job.tpu.pause()
      continue
    failures = 0
    offset += len(log)
    sys.stdout.buffer.write(log)
    sys.stdout.flush()
    if stands == 'ended 0':
      job.tpu.say('the training has ended well')
      return
    if stands.startswith('ended'):
      job.tpu.say(f'train.py has {stands}; looking whether a worker is lost')
      job.tpu.check_workers()
      # It may be another worker that failed first.
      job.tpu.say('the last lines of all workers:')
      sys.stdout.buffer.write(job.tpu.ssh('all', worker('last')).output)
      sys.stdout.flush()
      status = stands.removeprefix('ended ')
      raise StopError(
        f'train.py: exit status {status}; the log above says why.'
      )
    if stands != 'running':
      raise LostError(f'no training on worker 0, it is {stands}')
    job.tpu.pause()


def fetch(job: Job) -> None:
  """Copies the run from the bucket."""
  source = f'gs://{job.bucket}/{job.run}'
  job.tpu.say(f'fetching {source} to {job.target}')
  if not job.tpu.dry_run:
    job.target.mkdir(parents=True, exist_ok=True)
  answer = job.tpu.gcloud(
    'storage', 'rsync', source, str(job.target), '--recursive'
  )
  if answer.status:
    raise StopError(
      f'fetching {source} failed: {answer.reason}; it stays there.'
    )


def delete(job: Job) -> None:
  """Deletes the queued resource and its TPU."""
  job.tpu.say(f'deleting {job.tpu.name}')
  answer = job.tpu.queued('delete', '--force')
  if answer.status and not answer.is_missing():
    raise UnclearError(
      f'cannot delete {job.tpu.name} ({answer.reason}); it may cost money '
      f'until this succeeds: {job.tpu.again("delete")}'
    )


# All of it


def _leave(job: Job) -> str:
  """Deletes the TPU unless --keep; says what is left."""
  if job.keep:
    return f'--keep: {job.tpu.name} costs money until {job.tpu.again("delete")}'
  delete(job)
  return 'No TPU is left.'


def create(job: Job) -> None:
  """Makes the TPU, or leaves nothing behind."""
  if (state := job.tpu.state('NONE').name) != 'NONE':
    raise UnclearError(
      f'--name: there is a {job.tpu.name} already ({state}); take another '
      f'name, or {job.tpu.again("delete")}'
    )
  try:
    _request(job)
    _wait(job)
  except UnclearError:
    raise
  except (StopError, LostError) as error:
    delete(job)
    raise StopError(f'{error} No TPU is left.') from error


def _check_bucket(job: Job) -> None:
  """Refuses a bucket that is not there, or cannot keep checkpoints."""
  answer = job.tpu.gcloud(
    *('storage', 'buckets', 'describe', f'gs://{job.bucket}'),
    *('--format=value(hierarchicalNamespace.enabled)', '--raw'),
    pretend='True',
  )
  if answer.status:
    raise StopError(f'--bucket: {answer.reason}.')
  if answer.output.strip() != b'True':
    raise StopError(
      f'--bucket: {job.bucket} has no hierarchical namespace, which renaming '
      'a checkpoint needs; make a bucket as docs/tpu.md says.'
    )


def _begin(job: Job) -> None:
  """Has the training running on a TPU, whatever is there already."""
  state = job.tpu.state('NONE')
  if state.is_lost():
    delete(job)
  if state.is_lost() or state.name == 'NONE':
    _request(job)
  else:
    job.tpu.say(f'there is a {job.tpu.name} already, {state.name}')
  _wait(job)
  if state.name == 'ACTIVE' and job.tpu.report(0)[1] == 'running':
    job.tpu.say('a training runs on it, with the flags it was given then')
    return
  install(job)
  start(job)


def _train(job: Job) -> None:
  """Trains to the end, on as many TPUs as that takes."""
  restarts = 0
  unreached = False
  while True:
    try:
      _begin(job)
      follow(job)
      return
    except LostError as lost:
      job.tpu.say(f'lost: {lost}')
      if unreached and isinstance(lost, UnreachedError):
        raise StopError(
          f'{lost}, twice in a row; mend the way there, as docs/tpu.md says.'
        ) from lost
      if restarts == job.restarts:
        raise StopError(
          f'--restarts: {lost}, after {restarts} new TPUs; the same command '
          'goes on from the newest checkpoint.'
        ) from lost
      unreached = isinstance(lost, UnreachedError)
    delete(job)
    restarts += 1
    job.tpu.say(f'making it anew, {restarts} of at most {job.restarts} times')


def run(job: Job) -> None:
  """Does it all, and leaves nothing behind."""
  _check_bucket(job)
  try:
    _train(job)
    fetch(job)
  except UnclearError:
    raise
  except StopError as error:
    raise StopError(f'{error} {_leave(job)}') from error
  job.tpu.say(_leave(job))
