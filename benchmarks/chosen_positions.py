"""Positions that are chosen while training, against those that a seed draws.

  python -m benchmarks.chosen_positions --workdir=DIR --by=weight --keep=0.25

Model and protocol are those of the row random-nm1 of benchmarks/tables.py: all
coefficients of the blocks' kernels, AdamW. After --warm_up steps each layer
keeps its K = keep·N·M positions of the largest score, and all others are zero
for ever. The score is, with --by=

  weight: the coefficient squared.
  gradient: its squared gradient, a running mean as long as that of Adam's
    second moment, which itself sees the gradients of the kept alone.
  rechosen: weight; then every --every steps, up to half of the run, the weakest
    tenth of the kept is dropped, and as many of the others, those of the
    largest squared gradient, grow from zero: RigL (arXiv 1911.11134), but that
    the tenth does not shrink and the gradient is that running mean.
  random: none; the positions of the selection `random` are taken. The control.

Training goes on with the values there are, to --steps in all; with --rewind it
starts again at step 0 from the initial values times √(NM/K): a lottery ticket.
From the choice on, the kept are trained as a `random` selection's coefficients
are: their gradients alone are clipped, and Adam's steps are NM/K times as long
(`scale_by_selection`), weight decay's are not.

Flags of train.py come after `--`, as in `-- --config.train.batch_size=8`. It
leaves in DIR chosen_positions.json, and the recipe.
"""

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.arguments import check_passed_on, fail, parse_flags
from benchmarks.choice import choose_all, chosen, keep_only, mask_of, wanted
from benchmarks.runs import recipe
from benchmarks.tables import ROWS
from spectral_jax.errors import UserError
from spectral_jax.training import console, step, workdir
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.machine import machine_facts
from spectral_jax.training.settings import Settings

_RESULT = 'chosen_positions.json'
_OWN_KEYS = (
  'name',
  'seed',
  'train.steps',
  'model.linear.kind',
  'model.linear.keep',
  'model.linear.selection',
  'optimizer.name',
)

_WORKDIR = flags.DEFINE_string('workdir', '', 'Where the result is kept.')
_KEEP = flags.DEFINE_float(
  'keep', 0.25, 'K/(N·M).', lower_bound=1e-6, upper_bound=1.0
)
_STEPS = flags.DEFINE_integer('steps', 2000, 'In all.', lower_bound=2)
_WARM_UP = flags.DEFINE_integer(
  'warm_up', 200, 'Steps before the choice.', lower_bound=1
)
_BY = flags.DEFINE_enum(
  'by', 'weight', ['weight', 'gradient', 'rechosen', 'random'], 'The score.'
)
_EVERY = flags.DEFINE_integer(
  'every', 200, 'For rechosen: steps between two choices.', lower_bound=1
)
_REWIND = flags.DEFINE_bool(
  'rewind', False, 'Starts again from the initial values after the choice.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the parameters and the data.')
_DATA = flags.DEFINE_string(
  'data', None, 'The file of Tiny Shakespeare; else it is downloaded.'
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is kept, and when that is decided; see the flags."""

  by: str
  keep: float
  warm_up: int
  every: int = 200
  rewind: bool = False


def train(experiment: Experiment, plan: Plan) -> step.TrainState:
  """Trains all coefficients, chooses K of each layer, and trains those.

  Raises:
    UserError: if the loss is not finite.
  """
  settings, model, mesh = experiment.settings, experiment.model, experiment.mesh
  steps = settings.train.steps
  optimizer = chosen(experiment.optimizer, settings.optimizer.b2)
  initial = step.make_initial_state(model, optimizer, mesh, settings.seed)
  train_step = step.make_train_step(
    model,
    optimizer,
    mesh,
    seed=settings.seed,
    accumulate=settings.train.accumulate,
  )

  def advance(state: step.TrainState, until: int) -> step.TrainState:
    batches = experiment.train_batches(int(state.step))
    losses = []
    for at in range(int(state.step) + 1, until + 1):
      state, metrics = train_step(state, next(batches))
      losses.append(metrics['train_loss'])
      if at % 100 == 0 or at == until:
        loss = float(np.mean(jax.device_get(losses)))
        if not math.isfinite(loss):
          raise UserError(
            f'step {at}: the loss is {loss}; lower the learning rate, as in '
            '-- --config.optimizer.learning_rate=1e-3.'
          )
        print(f'step {at}/{steps}  train loss {loss:.4f}', flush=True)
        losses = []
    return state

  layers = wanted(settings.model, plan.keep)
  state = advance(initial(), plan.warm_up)
  masks = choose_all(plan.by, state, layers)
  if plan.rewind:
    state = initial()
  state = keep_only(state, masks, widen=plan.rewind)
  print(f'positions chosen by {plan.by}; on from step {int(state.step)}')
  if plan.by == 'rechosen':
    first = int(state.step) + plan.every
    for at in range(first, steps // 2 + 1, plan.every):
      state = advance(state, at)
      masks = choose_all(plan.by, state, layers)
      state = keep_only(state, masks, widen=False)
  return advance(state, steps)


def position_bits(size: int, count: int) -> int:
  """To store `count` of `size` positions: a bitmap, or a number for each."""
  return min(size, count * (size - 1).bit_length())


def describe(
  experiment: Experiment, plan: Plan, state: step.TrainState
) -> dict[str, Any]:
  """What was measured, as JSON can hold it."""
  gain = flatten_dict(state.opt_state.gain, sep='/')
  stored, as_dense = experiment.parameter_counts()
  bits, overlap = [], {}
  for name, random in wanted(experiment.settings.model, plan.keep).items():
    stored -= random.size - random.count
    bits.append(position_bits(random.size, random.count))
    lowpass = mask_of(dataclasses.replace(random, kind='lowpass'))
    overlap[name] = float(np.mean(lowpass[np.asarray(gain[name]) > 0]))
  score = experiment.score(state.params, 'validation')
  return {
    **dataclasses.asdict(plan),
    'seed': experiment.settings.seed,
    'steps': int(state.step),
    'validation_loss': score.loss,
    'validation_perplexity': score.perplexity,
    'parameters': stored,
    'parameters_dense': as_dense,
    'position_bytes': sum(-(-b // 8) for b in bits),
    'position_bytes_random': 0,  # drawn from the seeds: the layers' numbers
    'overlap_lowpass': overlap,
    **machine_facts(),
    'settings': experiment.settings.to_mapping(),
  }


def print_result(result: Mapping[str, Any]) -> None:
  """Prints the figures that matter."""
  stored, extra = result['parameters'], result['position_bytes']
  overlap = np.mean(list(result['overlap_lowpass'].values()))
  facts = {
    'loss': f'{result["validation_loss"]:.4f} nats per token',
    'perplexity': f'{result["validation_perplexity"]:.3f}',
    'stored parameters': f'{stored:,} '
    f'({stored / result["parameters_dense"]:.1%} of dense)',
    'stored positions': f'{extra:,} bytes, as many as {extra // 4:,} float32 '
    'numbers; those of random: none',
    'also in lowpass': f'{overlap:.1%} of the positions, mean over the layers; '
    f'by chance {result["keep"]:.1%}',
    'wall time': console.clock(result['wall_seconds']),
  }
  title = f'{result["keep"]:g} by {result["by"]}, step {result["steps"]}'
  console.print_facts(title, facts)


def _settings(extra: Sequence[str]) -> Settings:
  """The row's recipe and the flags; raises UserError for what will not do."""
  row = ROWS['random-nm1']
  own = {
    'name': 'chosen-positions',
    'seed': _SEED.value,
    'train.steps': _STEPS.value,
    'data.path': str(Path(_DATA.value).absolute()) if _DATA.value else '',
  }
  own_flags = (f'--config.{key}={value}' for key, value in own.items())
  flat = recipe(row.base, (*row.flags, *own_flags, *extra))
  return Settings.from_mapping(unflatten_dict(flat, sep='.')['config'])


def _parse_flags(argv: Sequence[str]) -> list[str]:
  rest = parse_flags(argv)
  if not _WORKDIR.value:
    fail('--workdir: missing; name a folder to keep the result in.')
  if (Path(_WORKDIR.value) / _RESULT).exists():
    fail(f'--workdir: {_WORKDIR.value} has a result; name another.')
  if _WARM_UP.value >= _STEPS.value:
    fail(f'--warm_up: expected fewer than the {_STEPS.value} --steps.')
  if _DATA.value and not Path(_DATA.value).is_file():
    fail(f'--data: no such file as {_DATA.value}.')
  check_passed_on(rest[1:], _OWN_KEYS, instead='the benchmark sets it.')
  return rest


def main(argv: Sequence[str]) -> None:
  """Does what the flags say."""
  logging.set_verbosity(logging.WARNING)  # of TFDS, which tells much
  directory = Path(_WORKDIR.value)
  plan = Plan(
    _BY.value, _KEEP.value, _WARM_UP.value, _EVERY.value, _REWIND.value
  )
  try:
    experiment = Experiment.to_train(_settings(argv[1:]))
    experiment.claim(directory)
    began = time.monotonic()
    result = describe(experiment, plan, train(experiment, plan))
  except UserError as error:
    fail(str(error))
  result['wall_seconds'] = time.monotonic() - began
  text = json.dumps(result, indent=2) + '\n'
  workdir.write_text(directory / _RESULT, text)
  print_result(result)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
