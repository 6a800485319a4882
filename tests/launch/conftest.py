"""The stand-in cloud of a test, and the checkout that is launched."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.world import REPOSITORY, World


@pytest.fixture(scope='session')
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


@pytest.fixture
def world(tmp_path: Path, checkout: Path) -> Iterator[World]:
  if sys.platform != 'linux':
    pytest.skip('what the workers run is for Linux')
  yield World(tmp_path, checkout)
  for session in tmp_path.glob('worker-*/session'):
    os.killpg(int(session.read_text()), signal.SIGKILL)
