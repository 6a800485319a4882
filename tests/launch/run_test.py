"""A run on the stand-in cloud from its beginning to its end."""

import ast
import re
import shlex
import shutil
import signal
import time

import pytest

from tests.launch.world import (
  STATES,
  WELL,
  WHERE,
  World,
  assert_trained,
  program,
  read_until,
)


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
