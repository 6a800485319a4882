"""What is lost, refused or fails on the stand-in cloud, and what is left."""

import re
import shutil
from typing import Any

import pytest

from tests.launch.world import (
  NOTHING_LEFT,
  QUOTA,
  WELL,
  World,
  assert_trained,
  program,
)

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
      {**WELL, 'train': 'interrupted'},
      'no training on worker 0, it is killed',
      3,
    ),
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
