"""Dense to spectral, spectral to dense, or from one K to another.

A run, which train.py then evaluates, samples from, and goes on training:

  python -m spectral_jax convert WORKDIR OUT --keep=0.25 [--selection=lowpass]
  python -m spectral_jax convert WORKDIR OUT --to=dense

A dense run is projected onto the coefficients, and the error of each layer
printed; OUT starts at step 0, from these parameters. A spectral run is cut or
grown to another K: its step and its optimizer's moments go with it, so that
from a --checkpoint before its last step, or with --steps=N, training goes on.
--to=dense rebuilds the kernels, for step 0 of a dense run.

The parameters of any linen model, as an Orbax checkpoint (a folder) or as
Flax's msgpack (a file), by rules on the paths of its layers:

  python -m spectral_jax convert PARAMS OUT --rules=RULES.json
  python -m spectral_jax convert PARAMS OUT --to=dense

RULES.json is a list of rules, [{"path": "encoder/.*", "keep": 0.25}, …], see
`spectral_jax.Rule`; kernels of more than two axes want "shape": [n, m]. What
the layers store is kept beside OUT, in OUT.layers.json, and read from there on
the way back.
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from spectral_jax.commands import parameter_files
from spectral_jax.commands.runs import (
  Run,
  define_checkpoint_flag,
  fraction,
  new_path,
  save,
)
from spectral_jax.convert.project import (
  match_layers,
  projection_errors,
  to_dense,
  to_spectral,
)
from spectral_jax.core.selection import KINDS
from spectral_jax.errors import UserError
from spectral_jax.layers.layer_table import aligned, layer_table
from spectral_jax.models.stored import layers_of
from spectral_jax.training import workdir
from spectral_jax.training.settings import Settings


def define_flags() -> None:
  """Defines this command's flags."""
  define_checkpoint_flag()
  flags.DEFINE_enum('to', 'spectral', ['spectral', 'dense'], 'What OUT stores.')
  flags.DEFINE_string('keep', None, 'The fraction of n·m to store.')
  flags.DEFINE_enum(
    'selection', None, list(KINDS), 'Which coefficients; by default lowpass.'
  )
  flags.DEFINE_integer(
    'steps', None, 'Of the training in OUT, in all.', lower_bound=1
  )
  flags.DEFINE_string('rules', None, 'A JSON file of rules.')


def run(arguments: list[str]) -> None:
  """Converts what the first argument names into the second.

  Raises:
    UserError: for an input that cannot be read or converted so, or an output
      that is there already.
  """
  if len(arguments) != 2:
    raise UserError(f'expected an input and OUT, got {len(arguments)} paths.')
  source = Path(arguments[0]).expanduser()
  if not source.exists():
    raise UserError(f'{source}: no such file or folder.')
  out = new_path(arguments[1])
  if (source / 'config.json').is_file():
    _convert_run(source, out)
  else:
    _convert_parameters(source, out)
  print(f'written: {out.absolute()}')


def _print_errors(errors: dict[str, float]) -> None:
  rows = [('layer', '‖W − Ŵ‖ / ‖W‖')]
  rows += [(path, f'{error:.4f}') for path, error in errors.items()]
  print(aligned(rows))


def _new_recipe(trained: Run) -> dict[str, Any]:
  """The recipe that the flags ask for."""
  values = flags.FLAGS
  selection = trained.recipe['model']['linear']['selection']
  if values.rules is not None:
    raise UserError('--rules: a run has one rule; give --keep, --selection.')
  if values.to == 'dense':
    if values.keep is not None or values.selection is not None:
      raise UserError('--to=dense: stores every weight; leave out --keep.')
    if trained.kind == 'dense':
      raise UserError('--to=dense: the run is dense already.')
    return trained.recipe_with(kind='dense')
  if values.keep is None:
    raise UserError('--keep: missing; say how many coefficients to store.')
  keep = fraction(values.keep)
  if trained.kind == 'dense':
    selection = values.selection or 'lowpass'
  elif values.selection not in (None, selection):
    raise UserError(
      f'--selection: the run has {selection} and keeps it; convert it '
      '--to=dense first.'
    )
  return trained.recipe_with(kind='spectral', keep=keep, selection=selection)


def _convert_run(source: Path, out: Path) -> None:
  trained = Run.read(source)
  trained.check_convertible(source)
  recipe = _new_recipe(trained)
  recipe['train']['steps'] = flags.FLAGS.steps or recipe['train']['steps']
  settings = Settings.from_mapping(recipe)
  experiment = dataclasses.replace(trained.experiment, settings=settings)
  if trained.kind == settings.model.linear.kind:
    state = trained.resize(trained.state, experiment)
  else:
    params = trained.params_as(experiment)
    state = experiment.init_state().replace(params=params)
  if trained.kind == 'dense':
    layers = layers_of(experiment.model)
    _print_errors(projection_errors(trained.state.params, layers))
  score = experiment.score(state.params, 'validation')
  workdir.claim(out, settings, experiment.digest(), experiment.tokenizer)
  save(state, out, score.loss)
  print(f'step {int(state.step)}, validation loss {score.loss:.4f}')


def _convert_parameters(source: Path, out: Path) -> None:
  values = flags.FLAGS
  if any(values[flag].present for flag in ('keep', 'selection', 'steps')):
    raise UserError(f'{source}: no run; give --rules in place of --keep.')
  to_be_dense = values.to == 'dense'
  if to_be_dense and values.rules is not None:
    raise UserError('--to=dense: takes no --rules; OUT.layers.json has them.')
  rules = [] if to_be_dense else parameter_files.read_rules(values.rules)
  params = parameter_files.read(source)
  try:
    if to_be_dense:
      layers = parameter_files.read_layers(source)
      converted = to_dense(params, layers)
    else:
      layers = match_layers(params, rules)
      converted = to_spectral(params, layers)
      print(layer_table(layers))
      _print_errors(projection_errors(params, layers))
  except ValueError as error:
    raise UserError(f'{source}: {error}') from None
  if not to_be_dense:
    parameter_files.write_layers(layers, out)  # first: OUT is useless without
  parameter_files.write(converted, out, like=source)
