"""A disk that is full, read-only or gone does not stop a run."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp
import pytest

from spectral_jax.commands import runs
from spectral_jax.errors import UserError
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.metrics import MetricsLog, read_metrics
from tests.trainer import end, metrics_rows, saved, small, start
from tests.training.states import train_state


class Usage(NamedTuple):
  """What `shutil.disk_usage` tells."""

  free: int


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
  """A disk of 8 MB."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f'this user cannot mount a disk ({error})')
  yield folder
  subprocess.run(['umount', '--lazy', folder], check=True)


def _fill(disk: Path) -> Path:
  path = disk / 'filling'
  with path.open('wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(4096))
  return path


def _remount(disk: Path, how: str) -> None:
  mount = ['mount', '-o', f'remount,{how}', str(disk)]
  subprocess.run(mount, check=True)


def _train_to(step: int, text: Path, workdir: Path) -> 'subprocess.Popen[str]':
  process = start('train.py', *small(text, workdir), tmp=text.parent)
  while not saved(workdir, step):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  return process


@pytest.mark.long
def test_a_run_outlives_a_full_disk(
  finished: tuple[Path, str], text: Path, disk: Path
) -> None:
  workdir = disk / 'run'
  process = _train_to(20, text, workdir)
  filling = _fill(disk)
  assert process.stdout is not None
  printed = ''
  while 'not saved' not in printed:
    printed += process.stdout.readline()
    assert process.poll() is None, printed
  assert re.search(
    r'checkpoint \d+: not saved \(No space left on device\); the last good '
    r'one: step \d+\n',
    printed,
  )
  filling.unlink()
  ended = end(process)
  assert ended.returncode == 0, ended.stderr
  assert metrics_rows(workdir) == metrics_rows(finished[0])
  steps = {int(path.name) for path in (workdir / 'checkpoints').iterdir()}
  assert steps >= {100, 120}
  loss = json.loads((workdir / 'summary.json').read_text())['validation_loss']
  assert f'loss                {loss:.4f}' in finished[1]


@pytest.mark.long
def test_a_run_without_its_workdir_says_what_it_lost(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  process = _train_to(20, text, workdir)
  # At once: what is removed piece by piece, the run writes into meanwhile.
  workdir.rename(tmp_path / 'lost')
  ended = end(process)
  assert ended.returncode == 2
  assert 'not saved (No such file or directory)' in ended.stdout
  assert ended.stdout.count('metrics.jsonl: cannot be written') == 1
  (line,) = re.findall('^error: .*$', ended.stderr, re.M)
  assert 'step 120: trained, but not saved' in line
  assert 'the last good checkpoint: none yet; make room' in line


# TensorStore tells an event loop of Orbax's that is closed by then.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_older_steps_stay_until_a_new_one_is_saved(
  disk: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  with Checkpoints(disk) as checkpoints:
    for step in (1, 2):
      assert checkpoints.save(train_state(step), 3.0)
    filling = _fill(disk)
    assert not checkpoints.save(train_state(3), 1.0)
    # Room for a part of it, and nobody who knows.
    with filling.open('r+b') as file:
      file.truncate(filling.stat().st_size - 24_000)
    with monkeypatch.context() as patch:
      patch.setattr(shutil, 'disk_usage', lambda _: Usage(2**60))
      assert not checkpoints.save(train_state(4), 1.0)
    filling.unlink()
    _remount(disk, 'ro')
    assert not checkpoints.save(train_state(5), 1.0)
    _remount(disk, 'rw')
    names = {path.name for path in (disk / 'checkpoints').iterdir()}
    assert names == {'1', '2'}
    told = capsys.readouterr().out
    assert told.count('not saved (No space left on device); the last') == 2
    assert 'checkpoint 5: not saved (Read-only file system); the last' in told
    assert checkpoints.save(train_state(6), 2.0)
    assert checkpoints.recover() == 6
    assert checkpoints.steps == [2, 6]


def test_orbax_is_not_asked_where_there_is_no_room(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  state = train_state(1)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  asked: list[object] = []
  save = ocp.Checkpointer.save
  monkeypatch.setattr(
    ocp.Checkpointer,
    'save',
    lambda *args, **more: (asked.append(args), save(*args, **more)),
  )
  with Checkpoints(tmp_path) as checkpoints:
    for free, saves in ((size - 1, False), (size, True)):
      monkeypatch.setattr(shutil, 'disk_usage', lambda _, f=free: Usage(f))
      assert checkpoints.save(state, 1.0) is saves
      assert bool(asked) is saves


def test_a_command_does_not_claim_what_it_could_not_save(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(0))
  with pytest.raises(UserError, match=r'^OUT: .*not saved; remove it, make'):
    runs.save(train_state(0), tmp_path, None)


def test_rows_that_could_not_be_written_are_written_later(
  disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  row = {'loss': 1.0, 'name ' * 1000: 2.0}
  with MetricsLog(disk, start_step=0) as log:
    log.write(1, row)
    filling = _fill(disk)
    for step in range(2, 20):
      log.write(step, row)
    assert (
      capsys.readouterr().out.count('metrics.jsonl: cannot be written') == 1
    )
    filling.unlink()
    log.write(20, row)
    assert [row['step'] for row in read_metrics(disk)] == [*range(1, 21)]
    assert 'metrics.jsonl: complete again' in capsys.readouterr().out
