r"""Trains on Cloud TPU VMs, from creating them to deleting them.

  python launch/tpu_vm.py run --name=my-tpu --zone=us-west4-a \
    --type=v5litepod-16 --spot --bucket=my-bucket -- --config=configs/paper.py

`run` creates a queued resource, waits for it, installs HEAD of this checkout on
all workers, starts train.py under tmux, follows its log, fetches the run and
deletes the TPU. A TPU that is preempted, or loses a worker, is made anew, and
the training goes on from its newest checkpoint, which lies in the bucket. The
same command again picks up what is there. `create`, `install`, `start`,
`follow`, `fetch` and `delete` are its steps. What comes after `--` goes to
train.py. --dry_run prints every command and runs none.

Needs absl-py and the Google Cloud CLI; docs/tpu.md begins at the beginning.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import job
from absl import app, flags
from cloud_tpu import CloudTpu, LostError, StopError

_NAME = flags.DEFINE_string('name', None, 'Of the queued resource and its TPU.')
_ZONE = flags.DEFINE_string('zone', None, 'Where, as us-west4-a.')
_TYPE = flags.DEFINE_string(
  'type', None, 'The accelerator type, as v5litepod-16, v4-8 or v6e-8.'
)
_PROJECT = flags.DEFINE_string('project', None, "By default gcloud's own.")
_BUCKET = flags.DEFINE_string(
  'bucket', None, 'The Cloud Storage bucket that keeps the run.'
)
_RUN_NAME = flags.DEFINE_string(
  'run_name', None, "The run's folder in the bucket; by default --name."
)
_TO = flags.DEFINE_string(
  'to', None, 'Where the run is fetched to; by default runs/RUN_NAME.'
)
_SPOT = flags.DEFINE_bool('spot', False, 'Cheaper; may be taken away.')
_RUNTIME = flags.DEFINE_string(
  'runtime', None, 'The runtime version; by default that of the --type.'
)
_CREATE_FLAG = flags.DEFINE_multi_string(
  'create_flag',
  [],
  'Another flag for gcloud compute tpus queued-resources create, as '
  '--create_flag=--reserved; may be repeated.',
)
_RESTARTS = flags.DEFINE_integer(
  'restarts', 20, 'New TPUs that run may make for lost ones.', lower_bound=0
)
_WAIT_HOURS = flags.DEFINE_float(
  'wait_hours', 24.0, 'The longest wait for a TPU.', lower_bound=0.0
)
_POLL = flags.DEFINE_float(
  'poll', 20.0, 'Seconds between two questions.', lower_bound=0.0
)
_KEEP = flags.DEFINE_bool('keep', False, 'run does not delete the TPU.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Prints every command, as if all went well, and runs none.'
)
flags.DEFINE_alias('dry-run', 'dry_run')

# https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
  'v2': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v4': 'tpu-ubuntu2204-base',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
# Named by the flags that give them.
_PATTERNS = {
  'name': (r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?', 'small letters, digits and -'),
  'zone': (r'[a-z]+-[a-z]+\d+-[a-z0-9]+', 'a zone, as us-west4-a'),
  'type': (r'v\d+[a-z]*-\d+', 'an accelerator type, as v5litepod-16'),
  'bucket': (r'[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]', "a bucket's bare name"),
  'run_name': (r'\w[\w.-]*', 'letters, digits, ., _ and -'),
}
_VERBS = {
  'create': job.create,
  'install': job.install,
  'start': job.start,
  'follow': job.follow,
  'fetch': job.fetch,
  'delete': job.delete,
  'run': job.run,
}
_NEEDED = {
  'create': ('type',),
  'install': ('bucket',),
  'fetch': ('bucket',),
  'run': ('type', 'bucket'),
}


def _fail(line: str, status: int = 2) -> NoReturn:
  print(f'error: {line}', file=sys.stderr)
  sys.exit(status)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """The launcher's own arguments, and after `--` those for train.py."""
  cut = argv.index('--') if '--' in argv else len(argv)
  return list(argv[:cut]), list(argv[cut + 1 :])


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags on both sides of the verb, and leaves train.py's alone."""
  own, train_flags = _split(argv)
  flags.FLAGS.set_gnu_getopt(True)
  try:
    rest: list[str] = flags.FLAGS(own)
  except flags.Error as error:
    line = str(error).splitlines()[0].rstrip('.')
    _fail(f"{line} (train.py's flags come after --).")
  return [*rest, '--', *train_flags]


def _check_flags(verb: str, train_flags: Sequence[str]) -> None:
  """Answers a mistake before anything is created."""
  for name in ('name', 'zone', *_NEEDED.get(verb, ())):
    if not flags.FLAGS[name].value:
      _fail(f'--{name}: missing; give {_PATTERNS[name][1]}.')
  for name, (pattern, expected) in _PATTERNS.items():
    value = flags.FLAGS[name].value
    if value and not re.fullmatch(pattern, value):
      _fail(f'--{name}: expected {expected}, got {value!r}.')
  if 'type' in _NEEDED.get(verb, ()) and not _runtime():
    _fail(
      f'--type: {_TYPE.value} is none of {", ".join(_RUNTIMES)} (v5e is called '
      'v5litepod); take one of these, or give its --runtime.'
    )
  if train_flags and verb not in ('start', 'run'):
    _fail(f'{verb} takes no flags for train.py, got {train_flags[0]!r}.')
  for flag in train_flags:
    if re.match('--?(no)?(workdir|distributed)(=|$)', flag):
      _fail(f'{flag}: the launcher gives this itself; leave it out.')
  if verb in ('install', 'run'):
    try:
      job.git('rev-parse', 'HEAD')
    except StopError as error:
      _fail(str(error))
  if not _DRY_RUN.value and not shutil.which('gcloud'):
    _fail(
      'gcloud is not on PATH; install the Google Cloud CLI, '
      'https://cloud.google.com/sdk/docs/install.'
    )


def _runtime() -> str:
  """The runtime version; empty if it is not known."""
  generation = (_TYPE.value or '').split('-')[0]
  return _RUNTIME.value or _RUNTIMES.get(generation, '')


def _job(train_flags: Sequence[str]) -> job.Job:
  name = _NAME.value or ''
  run = _RUN_NAME.value or name
  return job.Job(
    tpu=CloudTpu(
      name=name,
      zone=_ZONE.value or '',
      project=_PROJECT.value,
      poll=_POLL.value,
      dry_run=_DRY_RUN.value,
    ),
    accelerator=_TYPE.value or '',
    runtime=_runtime(),
    create_flags=(*(['--spot'] if _SPOT.value else []), *_CREATE_FLAG.value),
    wait_hours=_WAIT_HOURS.value,
    restarts=_RESTARTS.value,
    keep=_KEEP.value,
    bucket=_BUCKET.value or '',
    run=run,
    target=Path(_TO.value or f'runs/{run}'),
    train_flags=tuple(train_flags),
  )


def main(argv: Sequence[str]) -> None:
  """Does what the verb says."""
  (_, *verbs), train_flags = _split(argv)
  if len(verbs) != 1 or verbs[0] not in _VERBS:
    told = shlex.join(verbs) or 'none'
    _fail(f'expected one of {", ".join(_VERBS)}, got {told}.')
  _check_flags(verbs[0], train_flags)
  wanted = _job(train_flags)
  again = wanted.tpu.again('delete')
  try:
    _VERBS[verbs[0]](wanted)
  except StopError as error:
    _fail(str(error), 1)
  except LostError as lost:
    _fail(f'{lost}; {again}, and begin anew.', 1)
  except KeyboardInterrupt:
    print(
      f'\ninterrupted; if {wanted.tpu.name} is there, it goes on and costs '
      f'money. The same command comes back to it; to end it: {again}',
      file=sys.stderr,
    )
    sys.exit(130)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
