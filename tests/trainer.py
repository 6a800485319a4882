"""The commands, each in a process of its own, as a user types them."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


def environment(tmp: Path, devices: int = 1) -> dict[str, str]:
  return os.environ | {
    'TFDS_DATA_DIR': str(tmp),
    # As in conftest.py: optimising less halves the compiling.
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '
    '--xla_backend_optimization_level=1',
    'COLUMNS': '60',
    # Most of a small run's time is compilation, of the same few programs.
    # XLA complains, without need, when it reads them back.
    'JAX_COMPILATION_CACHE_DIR': str(tmp / f'compiled_{devices}'),
    'TF_CPP_MIN_LOG_LEVEL': '3',
  }


def command(*arguments: str) -> list[str]:
  return [sys.executable, 'train.py', *arguments]


def run(
  *arguments: object, tmp: Path, devices: int = 1
) -> subprocess.CompletedProcess[str]:
  """Python with these arguments; what it prepares is kept in `tmp`."""
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=REPOSITORY,
    env=environment(tmp, devices),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


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


def assert_refused(
  result: subprocess.CompletedProcess[str], expected: str
) -> None:
  assert result.returncode == 2, result.stdout + result.stderr
  (line,) = result.stderr.splitlines()
  assert line.startswith('error: ')
  assert re.search(expected, line), line
