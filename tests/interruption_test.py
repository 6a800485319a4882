"""Signals at any moment: a run is saved, and the same command goes on."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from spectral_jax.training.interruption import Interruption
from tests.trainer import end, metrics_rows, run, saved, small, start

GOES_ON = 'interrupted; the same command goes on'
# What a program that does not ask whether to stop does.
DEAF = """
import time
from spectral_jax.training.interruption import Interruption
with Interruption() as interruption, interruption.held():
  print('ready', flush=True)
  while True:
    time.sleep(60)
"""


def _read_until(process: subprocess.Popen[str], word: str) -> None:
  assert process.stdout is not None
  for line in process.stdout:
    if word in line:
      return
  raise AssertionError(process.communicate())


@pytest.mark.long
def test_sigterm_before_the_first_step(text: Path, tmp_path: Path) -> None:
  process = start('train.py', *small(text, tmp_path / 'run'), tmp=text.parent)
  _read_until(process, 'parameters')
  process.send_signal(signal.SIGTERM)
  ended = end(process)
  assert ended.returncode == 0, ended.stderr
  assert GOES_ON in ended.stdout
  assert 'Traceback' not in ended.stderr


def test_ctrl_c_after_the_last_step(text: Path, tmp_path: Path) -> None:
  workdir = tmp_path / 'run'
  shorter = ('--config.train.steps=2', '--config.train.evaluate_every=2')
  process = start('train.py', *small(text, workdir, *shorter), tmp=text.parent)
  while not saved(workdir, 2):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  ended = end(process)
  assert ended.returncode == 130, ended.stderr
  assert GOES_ON in ended.stdout
  assert 'Traceback' not in ended.stderr
  assert not (workdir / 'summary.json').exists()


@pytest.mark.long
@pytest.mark.parametrize('moment', ['evaluation', 'save'])
def test_sigterm_while_a_step_is_scored_or_saved(
  moment: str, finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  process = start('train.py', *small(text, workdir), tmp=text.parent)
  if moment == 'evaluation':  # which begins once this is said
    _read_until(process, 'step 20/120')
  else:
    while not (workdir / 'checkpoints/20/unfinished').exists():
      assert process.poll() is None, process.communicate()
      time.sleep(0.001)
  process.send_signal(signal.SIGTERM)
  ended = end(process)
  assert ended.returncode == 0, ended.stderr
  assert 'step 20  validation loss' in ended.stdout
  assert GOES_ON in ended.stdout
  assert saved(workdir, 20)
  assert not saved(workdir, 40)
  again = run('train.py', *small(text, workdir), tmp=text.parent)
  assert again.returncode == 0, again.stderr
  assert metrics_rows(workdir) == metrics_rows(finished[0])


@pytest.mark.long
def test_a_reader_that_goes_away(text: Path, tmp_path: Path) -> None:
  workdir = tmp_path / 'run'
  process = start('train.py', *small(text, workdir), tmp=text.parent)
  _read_until(process, 'step 10/120')
  assert process.stdout is not None
  process.stdout.close()
  assert process.wait(timeout=300) == 0
  assert process.stderr is not None
  with process.stderr as errors:
    assert errors.read() == ''
  assert saved(workdir, 20) or saved(workdir, 40)
  assert not (workdir / 'summary.json').exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
  process = start('-c', DEAF, tmp=tmp_path)
  _read_until(process, 'ready')
  process.send_signal(signal.SIGINT)
  assert process.stderr is not None
  assert process.stderr.readline() == '\n'
  assert 'Ctrl-C again ends at once' in process.stderr.readline()
  process.send_signal(signal.SIGINT)
  assert end(process).returncode == 130


def test_what_is_ignored_stays_ignored() -> None:
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with Interruption():
      assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
      assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  finally:
    signal.signal(signal.SIGINT, before)
