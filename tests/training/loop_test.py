"""Nothing that is not finite is logged or saved as good."""

import dataclasses
import math
from pathlib import Path

import pytest

from configs import base
from spectral_jax.errors import UserError
from spectral_jax.training import experiment, loop
from spectral_jax.training.experiment import Experiment, Score
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
    UserError, match=r'step 4: validation loss is nan.*checkpoint: step 2\)'
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
    UserError, match=r'^step 3: \w+ is nan, .*last good checkpoint: none yet'
  ) as caught:
    loop.train(settings, workdir)
  assert '\n' not in str(caught.value)
  assert not (workdir / 'summary.json').exists()


def test_a_compiler_that_computes_wrong_is_refused(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  experiment.check_compiler()
  for error in (4.7, math.nan):
    monkeypatch.setattr(experiment, 'compiled_error', lambda e=error: e)
    with pytest.raises(UserError, match=r'^jaxlib .*computes .* wrong on cpu'):
      experiment.check_compiler()
