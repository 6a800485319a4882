"""A run that is killed again and again ends as one that was left in peace."""

import contextlib
import json
import multiprocessing
import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from spectral_jax.training import loop
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.settings import Settings
from tests.trainer import metrics_rows, saved

KILLS = 26
EVERY = 4  # steps between two checkpoints
STEPS = 60 * EVERY
# Kills in a storm that are to fall into a save, and into the seconds before the
# first step; the others may fall anywhere.
IN_SAVES, AT_STARTS = 15, 5


def _recipe(folder: Path) -> Settings:
  config = base.get_config()
  config.data.corpus = 'text'
  config.data.path = str(folder / 'text.txt')
  config.data.directory = str(folder)
  config.mesh.data = 1
  config.model.context = 8
  config.model.width = 16
  config.model.layers = 1
  config.model.heads = 1
  config.train.steps = STEPS
  config.train.evaluate_every = EVERY
  config.train.log_every = 3
  config.train.batch_size = 2
  return Settings.from_mapping(config.to_dict())


def _live(folder: Path, name: str, keeps: bool) -> None:
  """Trains, in a process of its own; who is killed may tear what it caches."""
  jax.config.update('jax_compilation_cache_dir', str(folder / 'compiled'))
  jax.config.update(
    'jax_persistent_cache_min_compile_time_secs', 0.0 if keeps else 1e9
  )
  with (folder / f'{name}.log').open('a') as log:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    loop.train(_recipe(folder), folder / name)


def _begin(folder: Path, name: str, keeps: bool = False) -> BaseProcess:
  # A server forks processes that have imported everything: a tenth of the time.
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['tests.kill_storm_test'])
  process = context.Process(target=_live, args=(folder, name, keeps))
  process.start()
  return process


def _last_saved(workdir: Path) -> int:
  return max(
    (n for n in range(0, STEPS + 1, EVERY) if saved(workdir, n)), default=0
  )


def _saves(workdir: Path) -> bool:
  return any((workdir / 'checkpoints').glob('*/unfinished'))


def _kill(
  process: BaseProcess, workdir: Path, draw: random.Random, how: str
) -> bool:
  """Kills it at a moment drawn; returns whether that was in a save."""
  before = _last_saved(workdir)
  if how == 'start':
    time.sleep(draw.uniform(0, 1.5))
  else:
    until = before + EVERY * draw.randrange(2)
    while _last_saved(workdir) < until or (
      how == 'save' and not _saves(workdir)
    ):
      assert process.is_alive()
      time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.05))
  process.kill()
  process.join()
  return _saves(workdir)


@pytest.mark.long
def test_a_storm_of_kills_changes_nothing(tmp_path: Path) -> None:
  words = ['to', 'be', 'or', 'not', 'that', 'is']
  draw = random.Random(0)
  (tmp_path / 'text.txt').write_text(' '.join(draw.choices(words, k=400)))
  calm, storm = tmp_path / 'calm', tmp_path / 'storm'
  peaceful = _begin(tmp_path, 'calm', keeps=True)
  peaceful.join()
  assert peaceful.exitcode == 0, (tmp_path / 'calm.log').read_text()
  ways = ['save'] * IN_SAVES + ['start'] * AT_STARTS
  ways += ['any'] * (KILLS - len(ways))
  draw.shuffle(ways)
  in_saves, newest = 0, 0
  for how in ways:
    process = _begin(tmp_path, 'storm')
    in_saves += _kill(process, storm, draw, how)
    assert process.exitcode == -9, (tmp_path / 'storm.log').read_text()
    # Nothing that was saved is lost, nor more steps than lie between two saves.
    assert _last_saved(storm) >= newest
    newest = _last_saved(storm)
    with contextlib.suppress(FileNotFoundError, IndexError):
      last = (storm / 'metrics.jsonl').read_text().splitlines()[-1]
      with contextlib.suppress(ValueError):
        assert json.loads(last)['step'] <= newest + EVERY
  assert in_saves >= 5
  final = _begin(tmp_path, 'storm')
  final.join()
  assert final.exitcode == 0, (tmp_path / 'storm.log').read_text()
  assert metrics_rows(calm) == metrics_rows(storm)
  states = []
  for workdir in (calm, storm):
    with Checkpoints(workdir) as checkpoints:
      assert checkpoints.latest == STEPS
    _, state = loop.restore(_recipe(tmp_path), workdir, 'latest')
    states.append(state)
  jax.tree.map(np.testing.assert_array_equal, *states)
  log = (tmp_path / 'storm.log').read_text()
  assert 'damaged' not in log
  assert 'Traceback' not in log
