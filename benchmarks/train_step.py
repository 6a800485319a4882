"""The train step of the paper's model: dense against spectral, and PyTorch.

  python -m benchmarks.train_step [--batch_size=32] [--optimizers=adamw]
    [--peers]

Every contender takes a step in turn on the same batch, so that they share the
machine's moods; read the ratios. With --peers a plain PyTorch model of the same
architecture takes its turn too, dense, with AdamW (pip install -r
requirements-peers.txt). Flags of train.py come after `--`, for another model,
as `-- --config.model.width=1024 --config.model.layers=1`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import contenders, timing
from benchmarks.arguments import fail, import_peers, parse_flags
from spectral_jax.training import sharding
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.machine import keep_memory

_ROUNDS = flags.DEFINE_integer('rounds', 15, 'Counted steps.', lower_bound=1)
_BATCH = flags.DEFINE_integer(
  'batch_size', 16, 'Sequences a step.', lower_bound=1
)
_OPTIMIZERS = flags.DEFINE_list('optimizers', 'adamw,muon', 'Which to time.')
_SELECTIONS = flags.DEFINE_list(
  'selections', 'strided/2,strided/4,lowpass/2', 'KIND/B keeps nm/B.'
)
_METHODS = flags.DEFINE_list('methods', 'auto,idctn', 'Of spectral layers.')
_PEERS = flags.DEFINE_bool('peers', False, 'Times a PyTorch model as well.')


def _batch(contender: Experiment) -> np.ndarray:
  """Tokens of a step, the same for each contender."""
  settings = contender.settings
  return np.random.default_rng(0).integers(
    contender.tokenizer.vocabulary_size,
    size=(settings.train.batch_size, settings.model.context),
    dtype=np.int32,
  )


def _steps(contender: Experiment) -> Callable[[], Any]:
  """A function that takes the next step of a model and returns its metrics."""
  state, train_step = contender.init_state(), contender.train_step()
  tokens = _batch(contender)
  batch = sharding.put_batch(
    {'inputs': tokens, 'targets': tokens}, contender.mesh
  )

  def step() -> Any:
    nonlocal state
    state, metrics = train_step(state, batch)
    return metrics

  return step


def main(argv: Sequence[str]) -> None:
  """Times the contenders under each optimizer."""
  keep_memory()
  linears = contenders.dense_and_spectral(
    contenders.parse_selections(_SELECTIONS.value),
    contenders.parse_methods(_METHODS.value),
  )
  settings = contenders.read_settings(_BATCH.value, argv[1:])
  for optimizer in _OPTIMIZERS.value:
    if optimizer not in ('adamw', 'muon'):
      fail(f'--optimizers: expected adamw or muon, got {optimizer!r}.')
  peers = import_peers('peers') if _PEERS.value else None
  if peers and (unlike := peers.unlike(settings.model)):
    fail(f'--peers: the PyTorch model has no config.model.{unlike}.')
  compared = {
    optimizer: {
      name: contenders.experiment(settings, linear, optimizer)
      for name, linear in linears.items()
    }
    for optimizer in _OPTIMIZERS.value
  }
  timing.print_machine()
  for optimizer, experiments in compared.items():
    steps = {name: _steps(each) for name, each in experiments.items()}
    if peers and optimizer == 'adamw':
      dense = experiments['dense']
      steps['PyTorch dense'] = peers.train_steps(dense.settings, _batch(dense))
    title = f'{optimizer}, {_BATCH.value}×{settings.model.context} tokens'
    timing.print_ratios(
      f'train step, {title}', timing.interleave(steps, _ROUNDS.value)
    )
  print()
  for name, each in experiments.items():
    for line in contenders.picks(each):
      print(f'{name}, {line}')


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
