"""The launcher, from the command line to the workers, on a stand-in gcloud."""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='what the workers run is for Linux'
)
REPOSITORY = Path(__file__).parent.parent.parent
STAND_IN = Path(__file__).parent / 'stand_in.py'
# What a worker has, or installs.
WORKER_PROGRAMS = {
  'sudo': 'while [[ $1 == *=* ]]; do shift; done; "$@"',
  'apt-get': '[[ ! -f $WORLD/no_packages ]]',
  'curl': 'true',
  'tee': 'cat >/dev/null',
  'lsb_release': 'echo jammy',
  'mountpoint': '[[ -L ${!#} ]]',
  'gcsfuse': 'rmdir "${!#}"; ln -s "$WORLD/bucket" "${!#}"',
  'uv': 'if [[ $1 == venv ]]; then mkdir -p ~/venv/bin; '
  'ln -s "$WORLD/bin/gcloud" ~/venv/bin/python; '
  'elif [[ -f $WORLD/no_jax ]]; then '
  'echo "error: no version of jax" >&2; exit 1; fi',
  'tmux': 'if [[ $1 == has-session ]]; then [[ -f ~/session ]]; exit; fi\n'
  'shift 4; setsid bash -c \'"$@"; rm -f ~/session\' - "$@" '
  '>/dev/null 2>&1 & echo $! >~/session',
}
STATES = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
WELL = {'states': ['ACTIVE'], 'train': 'well'}
WHERE = ('--name=my-tpu', '--zone=us-west4-a', '--poll=0.03')
NOTHING_LEFT = 'No TPU is left.'
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptible' has been exceeded."


def program(path: Path, script: str, shell: str = '/bin/bash') -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(f'#!{shell}\n{script}\n')
  path.chmod(0o755)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A repository with the launcher, and nothing that takes time to copy."""
  root = tmp_path_factory.mktemp('checkout')
  shutil.copytree(
    REPOSITORY / 'launch',
    root / 'launch',
    ignore=shutil.ignore_patterns('__pycache__'),
  )
  (root / '.gitignore').write_text('__pycache__/\n')
  author = ('-c', 'user.name=A', '-c', 'user.email=a@b.c')
  for command in (('init', '-q'), ('add', '.'), ('commit', '-q', '-m', 'All')):
    subprocess.run(['git', '-C', root, *author, *command], check=True)
  return root


class World:
  """A cloud in a folder."""

  def __init__(self, root: Path, checkout: Path) -> None:
    self.root = root
    self.checkout = checkout
    for folder in ('bucket', 'home'):
      (root / folder).mkdir()
    program(
      root / 'bin' / 'gcloud', STAND_IN.read_text(), f'{sys.executable} -SE'
    )
    for name, script in WORKER_PROGRAMS.items():
      program(root / 'worker_bin' / name, script)
    self.happens(WELL)

  def happens(self, *tpus: dict[str, Any], **errors: Any) -> None:
    self.scenario = {'tpus': list(tpus), **errors}
    (self.root / 'scenario').write_text(repr(self.scenario))

  def start(self, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
      [sys.executable, str(self.checkout / 'launch' / 'tpu_vm.py'), *arguments],
      cwd=self.root / 'home',
      env=os.environ
      | {
        'PATH': f'{self.root}/bin:{os.environ["PATH"]}',
        'WORLD': str(self.root),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def launch(self, verb: str, *arguments: str) -> tuple[int, str, str]:
    flags = WHERE
    if verb in ('create', 'run'):
      flags += ('--type=v5litepod-16',)
    if verb in ('install', 'fetch', 'run'):
      flags += ('--bucket=my-bucket',)
    process = self.start(verb, *flags, *arguments)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error

  def refused(self, verb: str, *arguments: str) -> str:
    """The one line of a launch that fails."""
    status, _, error = self.launch(verb, *arguments)
    assert status == 1, error
    (line,) = error.splitlines()
    assert line.startswith('error: ')
    return line

  def calls(self) -> list[list[str]]:
    path = self.root / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines]

  def count(self, *words: str) -> int:
    return sum(set(words) <= set(call) for call in self.calls())

  def is_left(self) -> bool:
    scenario = ast.literal_eval((self.root / 'scenario').read_text())
    return bool(scenario.get('created', False))


@pytest.fixture
def world(tmp_path: Path, checkout: Path) -> Iterator[World]:
  yield World(tmp_path, checkout)
  for session in tmp_path.glob('worker-*/session'):
    os.killpg(int(session.read_text()), signal.SIGKILL)


def assert_trained(world: World, output: str) -> None:
  """The run has ended, was fetched, and nothing of it is left."""
  fetched = world.root / 'home' / 'runs' / 'my-tpu'
  assert (fetched / 'checkpoint-0').read_text() == '5'
  assert (fetched / 'checkpoint-1').read_text() == '5'
  assert output.splitlines()[-1].endswith(NOTHING_LEFT)
  assert not world.is_left()


def test_run_does_it_all(world: World) -> None:
  world.happens({**WELL, 'states': STATES})
  hard = [
    '--config=a.py:b',
    '--config.name=it\'s "a" $HOME;  ~ * \\n `id` ü',
    '',
  ]
  status, output, error = world.launch('run', '--project=p', '--', *hard)
  assert (status, error) == (0, '')
  assert_trained(world, output)
  for n in (0, 1):
    path = world.root / 'bucket' / 'my-tpu' / f'arguments-{n}'
    workdir = f'{world.root}/worker-{n}/bucket/my-tpu'
    assert ast.literal_eval(path.read_text()) == [
      *('train.py', '--distributed', f'--workdir={workdir}', *hard)
    ]
  told = [re.sub(r'^\d\d:\d\d:\d\d ', '', line) for line in output.splitlines()]
  assert [line for line in told if 'step' in line] == [
    'worker 0 begins at step 0',
    *(f'step {step} ✓' for step in range(1, 6)),
  ]
  assert [line for line in told if line.startswith('my-tpu is')] == [
    f'my-tpu is {state} after 0 min' for state in STATES
  ]
  assert all('--project=p' in c and '--quiet' in c for c in world.calls())
  (create,) = (call for call in world.calls() if 'create' in call)
  assert create == [
    *('compute', 'tpus', 'queued-resources', 'create', 'my-tpu'),
    *('--zone=us-west4-a', '--node-id=my-tpu'),
    *('--accelerator-type=v5litepod-16',),
    *('--runtime-version=v2-alpha-tpuv5-lite',),
    '--scopes=https://www.googleapis.com/auth/cloud-platform',
    *('--project=p', '--quiet'),
  ]


def test_a_dry_run_prints_the_commands_of_a_run(world: World) -> None:
  flags = ('--spot', '--create_flag=--reserved', '--', "--config.name=it's")
  _, dry, error = world.launch('run', '--dry_run', *flags)
  assert error == ''
  assert world.calls() == []
  assert not (world.root / 'home' / 'runs').exists()
  world.launch('run', *flags)

  def essence(command: list[str]) -> str:
    return re.sub(r'/\S+/spectral|report \d+', '', shlex.join(command))

  printed = [
    essence(shlex.split(line)[1:])
    for line in dry.splitlines()
    if not line.startswith('#')
  ]
  called = [essence(call) for call in world.calls()]
  assert list(dict.fromkeys(printed)) == list(dict.fromkeys(called))
  assert any('--spot --reserved' in line for line in printed)


PREEMPTED = {**WELL, 'train': 'wait'}


@pytest.mark.parametrize(
  ('tpu', 'reason', 'step'),
  [
    ({**WELL, 'unreachable': [1]}, 'a worker cannot be reached', 0),
    (
      {**PREEMPTED, 'then': {'states': ['SUSPENDING'], 'vm': 'X'}},
      'my-tpu is SUSPENDING',
      3,
    ),
    ({**PREEMPTED, 'then': {'vm': 'PREEMPTED'}}, 'the VM is PREEMPTED', 3),
    (
      {**PREEMPTED, 'then': {'unreachable': [0]}},
      'worker 0 cannot be reached',
      3,
    ),
    ({**WELL, 'train': 'vanish'}, 'no training on worker 0, it is killed', 3),
    (
      {**WELL, 'train': 'error', 'then': {'unreachable': [1]}},
      r'a worker is lost \(ssh: connect to worker 1',
      3,
    ),
  ],
)
def test_a_lost_tpu_is_made_anew_and_training_goes_on(
  world: World, tpu: dict[str, Any], reason: str, step: int
) -> None:
  world.happens(tpu, WELL)
  status, output, error = world.launch('run', '--spot', '--', '--config=a.py')
  assert (status, error) == (0, '')
  assert re.search(f'lost: .*{reason}', output)
  assert f'worker 0 begins at step {step}\n' in output
  assert_trained(world, output)
  creations = [call for call in world.calls() if 'create' in call]
  assert len(creations) == 2
  assert creations[0] == creations[1]
  assert world.count('delete') == 2


def test_restarts_are_bounded(world: World) -> None:
  gone = {'states': ['PROVISIONING', 'SUSPENDED'], 'train': 'well'}
  world.happens(gone, gone, gone)
  line = world.refused('run', '--restarts=1')
  assert '--restarts: my-tpu is SUSPENDED, after 1 new TPUs' in line
  assert line.endswith(NOTHING_LEFT)
  assert world.count('create') == world.count('delete') == 2
  assert not world.is_left()


@pytest.mark.parametrize(
  ('verb', 'tpu', 'errors'),
  [
    ('run', WELL, {'create': [QUOTA]}),
    ('create', {'states': ['PROVISIONING', 'FAILED'], 'failure': QUOTA}, {}),
  ],
)
def test_quota_gets_one_line_and_leaves_nothing(
  world: World, verb: str, tpu: dict[str, Any], errors: dict[str, list[str]]
) -> None:
  world.happens(tpu, **errors)
  line = world.refused(verb)
  assert 'no v5litepod-16: RESOURCE_EXHAUSTED: Quota limit' in line
  assert 'iam-admin/quotas' in line
  assert line.endswith(NOTHING_LEFT)
  assert not world.is_left()
  assert world.count('create') == 1


def test_what_cannot_be_reached_is_not_made_for_ever(world: World) -> None:
  world.happens(*[{**WELL, 'unreachable': [1]}] * 3)
  line = world.refused('run')
  assert re.search(r'a worker cannot be reached \(.*\), twice in a row', line)
  assert line.endswith(NOTHING_LEFT)
  assert world.count('create') == 2


def test_a_wait_that_is_too_long_leaves_nothing(world: World) -> None:
  world.happens({'states': ['WAITING_FOR_RESOURCES']})
  line = world.refused('run', '--wait_hours=0')
  assert '--wait_hours: no TPU within 0 h' in line
  assert line.endswith(NOTHING_LEFT)
  assert not world.is_left()


def test_a_training_that_fails_ends_the_run(world: World) -> None:
  world.happens({**WELL, 'train': 'error'})
  status, output, error = world.launch('run')
  assert status == 1
  _, ends = output.split('the last lines of all workers')
  assert len(re.findall(': ended 1\n.*\n.*\n.*\nstep 3', ends)) == 2
  assert output.count('Traceback: it went wrong') == 3
  assert error == (
    f'error: train.py: exit status 1; the log above says why. {NOTHING_LEFT}\n'
  )
  assert world.count('create') == 1
  shutil.rmtree(world.root / 'bucket' / 'my-tpu')
  world.happens({**WELL, 'train': 'error'})
  line = world.refused('run', '--keep')
  assert '--keep: my-tpu costs money until python launch/tpu_vm.py de' in line
  assert world.is_left()


@pytest.mark.parametrize(
  ('file', 'expected'),
  [('no_jax', 'installing failed: no version of jax'), ('no_packages', 'apt-')],
)
def test_an_installation_that_fails_ends_the_run(
  world: World, file: str, expected: str
) -> None:
  program(world.root / 'worker_bin' / 'sleep', 'true')
  (world.root / file).touch()
  line = world.refused('run')
  assert expected in line
  assert line.endswith(NOTHING_LEFT)
  assert not world.is_left()


def test_what_cannot_be_deleted_is_told(world: World) -> None:
  world.happens(WELL, delete=['PERMISSION_DENIED: no.'])
  line = world.refused('run')
  assert 'cannot delete my-tpu (PERMISSION_DENIED: no); it may cost' in line
  assert line.endswith('delete --name=my-tpu --zone=us-west4-a')
  assert world.is_left()


def test_an_outage_is_sat_out(world: World) -> None:
  world.happens(
    WELL,
    scp=['the key is not there yet', None],
    describe=[None, 'UNAVAILABLE: later', 'UNAVAILABLE: later', None],
  )
  status, output, error = world.launch('run')
  assert (status, error) == (0, '')
  assert output.count('(UNAVAILABLE: later); trying again') == 2
  assert_trained(world, output)
  world.happens(WELL, describe=[None, *['UNAVAILABLE: later'] * 99])
  line = world.refused('run')
  assert 'gcloud cannot tell how my-tpu is (UNAVAILABLE: later)' in line
  assert world.is_left()


def test_a_tpu_that_somebody_deleted_is_not_made_anew(world: World) -> None:
  gone = 'NOT_FOUND: no such thing'
  world.happens(WELL, describe=[None, gone])
  line = world.refused('run')
  assert 'my-tpu was deleted by somebody else' in line
  assert world.count('create') == 1


def read_until(process: subprocess.Popen[str], text: str) -> str:
  assert process.stdout is not None
  seen = ''
  while text not in seen:
    line = process.stdout.readline()
    assert line, seen
    seen += line
  return seen


def test_an_interrupted_run_is_picked_up(world: World) -> None:
  world.happens({**WELL, 'train': 'wait'})
  command = ('run', *WHERE, '--type=v5litepod-16', '--bucket=my-bucket')
  process = world.start(*command)
  read_until(process, 'step 3')
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=30)
  assert process.returncode == 130
  assert error.strip().startswith('interrupted; if my-tpu is there, it goes on')
  assert error.strip().endswith('delete --name=my-tpu --zone=us-west4-a')
  assert world.is_left()
  process = world.start(*command)
  read_until(process, 'a training runs on it')
  (world.root / 'go').touch()
  output, error = process.communicate(timeout=30)
  assert (process.returncode, error) == (0, '')
  assert_trained(world, output)
  assert world.count('create') == world.count('scp') == 1


def test_the_steps_one_by_one(world: World) -> None:
  world.happens({**WELL, 'train': 'wait'})
  assert world.launch('create')[0] == 0
  assert '--name: there is a my-tpu already (ACTIVE)' in world.refused('create')
  assert 'no training on worker 0, it is idle' in world.refused('follow')
  assert world.launch('install')[0] == 0
  assert world.launch('start', '--', '--config=a.py')[0] == 0
  assert 'a training runs here already' in world.refused('start')
  process = world.start('follow', *WHERE)
  seen = read_until(process, 'step 3')
  time.sleep(0.5)  # looks again, and sees nothing new
  (world.root / 'go').touch()
  seen += process.communicate(timeout=30)[0]
  assert process.returncode == 0
  assert re.findall('step [1-5]', seen) == [f'step {n}' for n in range(1, 6)]
  # Once more, over what is there; the first training's end is not this one's.
  (world.root / 'go').unlink()
  shutil.rmtree(world.root / 'bucket' / 'my-tpu')
  assert world.launch('install')[0] == 0
  assert world.launch('start')[0] == 0
  process = world.start('follow', *WHERE)
  read_until(process, 'step 3')
  time.sleep(0.5)
  assert process.poll() is None
  (world.root / 'go').touch()
  process.communicate(timeout=30)
  assert process.returncode == 0
  assert world.launch('fetch', '--to=here')[0] == 0
  assert (world.root / 'home' / 'here' / 'checkpoint-1').exists()
  assert world.is_left()
  assert world.launch('delete')[0] == 0
  assert not world.is_left()
  assert world.launch('delete')[0] == 0  # nothing to delete is no error


@pytest.mark.skipif(not shutil.which('tmux'), reason='there is no tmux here')
def test_tmux_is_told_what_it_understands(world: World) -> None:
  (world.root / 'worker_bin' / 'tmux').unlink()
  program(
    world.root / 'worker_bin' / 'tmux',
    f'TMUX_TMPDIR=$HOME exec {shutil.which("tmux")} "$@"',
  )
  hard = 'it\'s "a" $HOME;  ~ * \\n `id` #{session} ;'
  status, _, error = world.launch('run', '--', hard)
  assert (status, error) == (0, '')
  path = world.root / 'bucket' / 'my-tpu' / 'arguments-1'
  assert ast.literal_eval(path.read_text())[-1] == hard


def test_files_that_are_not_in_head_are_told(world: World) -> None:
  (world.checkout / 'new.py').touch()
  try:
    _, output, _ = world.launch('run', '--dry-run')
  finally:
    (world.checkout / 'new.py').unlink()
  assert 'note: 1 files here are not as in HEAD' in output


def test_a_bucket_that_cannot_keep_the_run_is_refused(world: World) -> None:
  world.happens(WELL, buckets=['gs://my-bucket not found: 404.'])
  assert '--bucket: gs://my-bucket not found: 404.' in world.refused('run')
  world.happens(WELL, hierarchical='')
  assert 'no hierarchical namespace' in world.refused('run')
  assert world.count('create') == 0


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    ('', 'expected one of create, install, .*, got none'),
    ('fly', 'expected one of create, .*, got fly'),
    ('run run', 'got run run'),
    ('delete', '--name: missing; give small letters'),
    ('delete --name=a', '--zone: missing; give a zone, as us-west4-a'),
    ('create --name=a --zone=us-west4-a', '--type: missing'),
    ('fetch --name=a --zone=us-west4-a', '--bucket: missing'),
    ('delete --name=My_TPU --zone=us-west4-a', "--name: .*got 'My_TPU'"),
    ('delete --name=a --zone=us-west', "--zone: .*got 'us-west'"),
    ('create --name=a --zone=us-west4-a --type=big', "--type: .*got 'big'"),
    (
      'create --name=a --zone=us-west4-a --type=v5e-8',
      '--type: v5e-8.*litepod',
    ),
    ('fetch --name=a --zone=us-a1-a --bucket=gs://b', '--bucket: .*bare name'),
    ('follow --name=a --zone=us-a1-a --run_name=../b', '--run_name: expected'),
    ('run --restarts=-1', 'restarts'),
    ('run --poll=often', 'poll'),
    ('run --config=a.py', "'config'.*train.py's flags come after --"),
    ('delete --name=a --zone=us-a1-a -- --x=1', 'takes no flags for train.py'),
    ('start --name=a --zone=us-a1-a -- --workdir=b', '--workdir=b: .*leave it'),
  ],
)
def test_bad_input_gets_one_line(
  world: World, arguments: str, expected: str
) -> None:
  process = world.start(*arguments.split())
  output, error = process.communicate(timeout=30)
  assert process.returncode == 2, error
  assert output == ''
  (line,) = error.splitlines()
  assert re.match(f'error: .*{expected}', line), line
  assert world.calls() == []


def test_without_gcloud_it_says_what_to_install(world: World) -> None:
  (world.root / 'bin' / 'gcloud').unlink()
  launcher = str(world.checkout / 'launch' / 'tpu_vm.py')
  process = subprocess.run(
    [sys.executable, launcher, 'delete', '--name=a', '--zone=us-west4-a'],
    env={'PATH': str(world.root / 'bin')},
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 2
  assert process.stderr.startswith('error: gcloud is not on PATH; install')


def test_without_a_checkout_it_says_so(world: World, tmp_path: Path) -> None:
  world.checkout = tmp_path / 'copy'
  shutil.copytree(REPOSITORY / 'launch', world.checkout / 'launch')
  status, _, error = world.launch('run')
  assert status == 2
  assert re.match('error: git .*rev-parse HEAD fails .*git clone', error)
  assert world.calls() == []
