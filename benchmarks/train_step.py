"""The train step of the default model: dense against spectral.

  python -m benchmarks.train_step [--rounds=30] [--optimizers=adamw,muon]

Every contender takes a step in turn on the same batch, so that they share the
machine's moods; read the ratios.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import timing
from configs import shakespeare
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer
from spectral_jax.training import sharding
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.settings import Settings
from spectral_jax.training.step import init_state, make_train_step

_VOCABULARY = 65
_ROUNDS = flags.DEFINE_integer('rounds', 30, 'Counted steps of each.')
_BATCH = flags.DEFINE_integer('batch_size', 16, 'Sequences a step.')
_OPTIMIZERS = flags.DEFINE_list('optimizers', 'adamw,muon', 'Which to time.')
_DEFAULT = LinearConfig(selection='strided', method='gemm')
_CONTENDERS = {
  'dense': LinearConfig('dense'),
  'spectral nm/2 strided, gemm': _DEFAULT,
  'spectral nm/2 strided, idctn': dataclasses.replace(_DEFAULT, method='idctn'),
  'spectral nm/2 lowpass, gemm': dataclasses.replace(
    _DEFAULT, selection='lowpass'
  ),
  'spectral nm/4 strided, gemm': dataclasses.replace(_DEFAULT, keep=0.25),
}


def _contender(
  settings: Settings, linear: LinearConfig, batch_size: int
) -> Callable[[], Any]:
  """A function that takes the next step of a model and returns its loss."""
  config = dataclasses.replace(settings.model, linear=linear)
  model = Transformer(_VOCABULARY, config)
  mesh = make_mesh(settings.mesh, batch_size)
  tokens = np.random.default_rng(0).integers(
    _VOCABULARY, size=(batch_size, config.context), dtype=np.int32
  )
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  optimizer = make_optimizer(
    settings.optimizer, settings.train.steps, params, config
  )
  state = jax.jit(lambda: init_state(model, optimizer, seed=0))()
  train_step = make_train_step(model, optimizer, mesh, seed=0)
  batch = sharding.put_batch({'inputs': tokens, 'targets': tokens}, mesh)

  def step() -> Any:
    nonlocal state
    state, metrics = train_step(state, batch)
    return metrics

  return step


def main(argv: Sequence[str]) -> None:
  """Times the contenders under each optimizer."""
  del argv
  timing.print_machine()
  recipe = Settings.from_mapping(shakespeare.get_config().to_dict())
  for name in _OPTIMIZERS.value:
    settings = dataclasses.replace(
      recipe, optimizer=dataclasses.replace(recipe.optimizer, name=name)
    )
    steps = {
      contender: _contender(settings, linear, _BATCH.value)
      for contender, linear in _CONTENDERS.items()
    }
    title = f'train step, {name}, {_BATCH.value}×{recipe.model.context} tokens'
    timing.print_ratios(title, timing.interleave(steps, _ROUNDS.value))


if __name__ == '__main__':
  app.run(main)
