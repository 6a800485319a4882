"""What is not finite is not saved as good; an interruption loses nothing."""

import dataclasses
import math
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from spectral_jax.errors import UserError
from spectral_jax.training import loop, machine
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.experiment import Experiment, Score
from spectral_jax.training.interruption import Interruption
from spectral_jax.training.metrics import read_metrics
from spectral_jax.training.settings import Settings


def _recipe(text: Path, data: Path) -> Settings:
  config = base.get_config()
  config.data.corpus = 'text'
  config.data.path = str(text)
  config.data.directory = str(data)
  config.model.context = 8
  config.model.width = 8
  config.model.layers = 1
  config.model.heads = 1
  config.train.steps = 6
  config.train.evaluate_every = 2
  config.train.batch_size = 2
  return Settings.from_mapping(config.to_dict())


def test_a_validation_loss_that_is_not_finite_is_not_saved(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be ' * 40)
  scores = iter([Score(3.0, 4.0), Score(math.nan, math.nan)])
  monkeypatch.setattr(Experiment, 'score', lambda *_: next(scores))
  workdir = tmp_path / 'run'
  with pytest.raises(
    UserError, match=r'step 4: validation loss is nan.*checkpoint: step 2; '
  ):
    loop.train(_recipe(text, tmp_path), workdir)
  saved = [path.name for path in (workdir / 'checkpoints').iterdir()]
  assert saved == ['2']


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be ' * 40)
  settings = _recipe(text, tmp_path)
  optimizer = dataclasses.replace(
    settings.optimizer, learning_rate=1e38, warmup_steps=3
  )
  train = dataclasses.replace(settings.train, evaluate_every=6, log_every=1)
  settings = dataclasses.replace(settings, optimizer=optimizer, train=train)
  workdir = tmp_path / 'run'
  with pytest.raises(
    UserError, match=r'^step 3: \w+ is nan, .*last good checkpoint: none yet; '
  ) as caught:
    loop.train(settings, workdir)
  assert '\n' not in str(caught.value)
  assert not (workdir / 'summary.json').exists()


def test_a_compiler_that_computes_wrong_is_refused(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  machine.check_compiler()
  for error in (4.7, math.nan):
    monkeypatch.setattr(machine, 'compiled_error', lambda e=error: e)
    with pytest.raises(UserError, match=r'^jaxlib .*computes .* wrong on cpu'):
      machine.check_compiler()


class _Interruption(Interruption):
  """One that comes during a given step."""

  def __init__(self, during: int) -> None:
    super().__init__()
    self._during = during

  def reached(self, step: int) -> bool:
    if step == self._during:
      self._asked = signal.SIGTERM
    return super().reached(step)


def _log(workdir: Path) -> list[dict[str, float]]:
  return [
    {key: row[key] for key in row if 'second' not in key}
    for row in read_metrics(workdir)
  ]


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be ' * 40)
  settings = _recipe(text, tmp_path)
  train = dataclasses.replace(
    settings.train, steps=13, evaluate_every=6, log_every=4
  )
  # Of all optimizers' states that of kernels' gradients has most to lose.
  optimizer = dataclasses.replace(settings.optimizer, gradients='kernels')
  settings = dataclasses.replace(settings, train=train, optimizer=optimizer)
  one, other = tmp_path / 'one', tmp_path / 'other'
  loop.train(settings, one)
  # Before a row of the log, twice, and at one.
  for step, kept in ((2, [2]), (3, [3]), (8, [6, 8])):
    loop.train(settings, other, _Interruption(during=step))
    with Checkpoints(other) as checkpoints:
      assert checkpoints.steps == kept
    assert not (other / 'summary.json').exists()
  loop.train(settings, other)
  assert _log(one) == _log(other)
  assert [row['step'] for row in _log(one)] == [4, 6, 8, 12, 13]
  states = []
  for workdir in (one, other):
    with Checkpoints(workdir) as checkpoints:
      assert checkpoints.steps in ([12, 13], [6, 12, 13])
      states.append((checkpoints.steps, loop.restore(settings, workdir, '13')))
  (steps, (_, state)), (steps_too, (_, state_too)) = states
  assert steps == steps_too
  jax.tree.map(np.testing.assert_array_equal, state, state_too)
  moments = [
    leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    if jax.tree_util.keystr(path).endswith("u['block_0']['out']['kernel']")
  ]
  assert moments == [(8, 8), (8, 8)]
