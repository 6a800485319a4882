"""The commands, each in a process of its own, as a user types them."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xla_flags import xla_flags

REPOSITORY = Path(__file__).parent.parent
SMALL = (
  '--config.data.corpus=text',
  '--config.model.width=32',
  '--config.model.layers=1',
  '--config.model.heads=2',
  '--config.model.context=32',
  '--config.model.dropout=0.1',
  '--config.train.batch_size=8',
  '--config.train.steps=120',
  '--config.train.evaluate_every=20',
  '--config.train.log_every=10',
)


def _compiled(tmp: Path, devices: int) -> Path:
  return tmp / f'compiled_{devices}'


def start(
  *arguments: object, tmp: Path, devices: int = 1, **surroundings: str
) -> subprocess.Popen[str]:
  """Starts Python with these arguments; what it prepares is kept in `tmp`."""
  environment = {
    'TFDS_DATA_DIR': str(tmp),
    'XLA_FLAGS': xla_flags(devices),
    'COLUMNS': '60',
    # Most of a small run's time is compilation, of the same few programs.
    # XLA complains, without need, when it reads them back.
    'JAX_COMPILATION_CACHE_DIR': str(_compiled(tmp, devices)),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'TF_CPP_MIN_LOG_LEVEL': '3',
  }
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=REPOSITORY,
    env=os.environ | environment | surroundings,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
  """Waits for its end, but not for ever."""
  try:
    outputs = process.communicate(timeout=300)
  finally:
    process.kill()
  return subprocess.CompletedProcess(process.args, process.returncode, *outputs)


def run(
  *arguments: object, tmp: Path, devices: int = 1, **surroundings: str
) -> subprocess.CompletedProcess[str]:
  return end(start(*arguments, tmp=tmp, devices=devices, **surroundings))


def train(
  *arguments: str, text: Path, devices: int = 1
) -> subprocess.CompletedProcess[str]:
  return run('train.py', *arguments, tmp=text.parent, devices=devices)


def small(text: Path, workdir: Path, *arguments: str) -> list[str]:
  return [
    f'--workdir={workdir}',
    *SMALL,
    f'--config.data.path={text}',
    *arguments,
  ]


def trained(
  name: str,
  text: Path,
  tmp_path_factory: pytest.TempPathFactory,
  *arguments: str,
) -> tuple[Path, str]:
  """A small run that the first process of the tests to ask trains for all.

  Its workdir is not to be changed.
  """
  base = tmp_path_factory.getbasetemp()
  folder = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
  folder /= f'{name}-for-all'
  folder.mkdir(exist_ok=True)
  workdir, printed = folder / 'run', folder / 'printed.txt'
  with (folder / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not printed.exists():
      result = run('train.py', *small(text, workdir, *arguments), tmp=folder)
      assert result.returncode == 0, result.stderr
      assert result.stderr == ''
      printed.write_text(result.stdout)
  # Two processes cannot share a cache, which JAX writes in place.
  shutil.copytree(
    _compiled(folder, 1), _compiled(text.parent, 1), dirs_exist_ok=True
  )
  return workdir, printed.read_text()


def assert_refused(
  result: subprocess.CompletedProcess[str], expected: str
) -> None:
  assert result.returncode == 2, result.stdout + result.stderr
  (line,) = result.stderr.splitlines()
  assert line.startswith('error: ')
  assert re.search(expected, line), line


def saved(workdir: Path, step: int) -> bool:
  """Whether a step is saved to its end."""
  return (workdir / 'checkpoints' / str(step) / 'manifest.json').exists()


def metrics_rows(workdir: Path) -> list[dict[str, float]]:
  """A run's log, without how long it took, which alone may differ."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  for row in rows:
    row.pop('tokens_per_second')
    row.pop('train_seconds')
  return rows
