"""Mistakes that the launcher answers before anything is created."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.world import REPOSITORY, WELL, World


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


def test_a_bucket_that_cannot_keep_the_run_is_refused(world: World) -> None:
  world.happens(WELL, buckets=['gs://my-bucket not found: 404.'])
  assert '--bucket: gs://my-bucket not found: 404.' in world.refused('run')
  world.happens(WELL, hierarchical='')
  assert 'no hierarchical namespace' in world.refused('run')
  assert world.count('create') == 0
