"""One run at a time in a workdir, also after its owner was killed."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from spectral_jax.errors import UserError
from spectral_jax.training import lock
from tests.trainer import assert_refused, end, small, start, train

# Holds the lock until it is killed.
HOLDS = """
import sys, time
from pathlib import Path
from spectral_jax.training import lock
lock._BEAT = 0.05
with lock.taken(Path(sys.argv[1])):
  print('taken', flush=True)
  time.sleep(600)
"""


def _hold(workdir: Path, tmp: Path) -> subprocess.Popen[str]:
  return start('-c', HOLDS, workdir, tmp=tmp)


def _read(process: subprocess.Popen[str]) -> str:
  assert process.stdout is not None
  return process.stdout.readline()


def _leave(workdir: Path, host: str, seconds_ago: float) -> None:
  """What an owner leaves behind that was killed some time ago."""
  seen = time.time() - seconds_ago
  owner = {'host': host, 'process': 7, 'since': seen - 600, 'seen': seen}
  (workdir / 'owner.json').write_text(json.dumps(owner))


def test_a_second_run_is_refused_until_the_first_is_dead(
  text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  first = _hold(workdir, tmp_path)
  assert _read(first) == 'taken\n'
  assert_refused(
    train(*small(text, workdir), text=text),
    rf'--workdir: another run trains in .*run \(process {first.pid} on .*for 0',
  )
  assert not (workdir / 'config.json').exists()
  first.kill()
  first.communicate()
  second = _hold(workdir, tmp_path)
  assert f'process {first.pid} on' in (line := _read(second))
  assert line.endswith('is gone; its lock is taken over\n')
  assert _read(second) == 'taken\n'
  # Another host took over, while this one was away.
  _leave(workdir, 'elsewhere', 0)
  ended = end(second)
  assert ended.returncode == 2
  assert 'process 7 on elsewhere, for 10 min, has taken over' in ended.stderr


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(lock, '_BEAT', 0.1)
  monkeypatch.setattr(lock, '_PATIENCE', 0.5)


@pytest.mark.usefixtures('_hasty')
def test_an_owner_elsewhere_is_waited_for(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  _leave(tmp_path, 'elsewhere', 60)
  with lock.taken(tmp_path):
    owner = json.loads((tmp_path / 'owner.json').read_text())
    assert owner['host'] != 'elsewhere'
    printed = capsys.readouterr().out
    assert 'process 7 on elsewhere, for 11 min, trained here; wait' in printed
    assert 'is gone' in printed
  assert not (tmp_path / 'owner.json').exists()


@pytest.mark.usefixtures('_hasty')
def test_one_that_lives_elsewhere_keeps_its_workdir(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(lock, '_PATIENCE', 600.0)
  _leave(tmp_path, 'elsewhere', 60)
  sign = threading.Timer(0.3, _leave, (tmp_path, 'elsewhere', 0))
  sign.start()
  with (
    pytest.raises(UserError, match=r'another run trains in .*7 on elsewhere'),
    lock.taken(tmp_path),
  ):
    pass
  sign.join()


def test_one_that_was_silent_for_long_is_not_waited_for(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  _leave(tmp_path, 'elsewhere', 3600)
  with lock.taken(tmp_path):
    printed = capsys.readouterr().out
  assert 'waiting' not in printed
  assert 'is gone' in printed


def test_a_workdir_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
  (tmp_path / 'lock').mkdir()
  with (
    pytest.raises(UserError, match=r'--workdir: cannot write in .*Is a dir'),
    lock.taken(tmp_path),
  ):
    pass
