"""Makes a run of an exported model, which train.py evaluates and samples from.

  python -m spectral_jax import FILE OUT

FILE is what export wrote. Its recipe is in it, without the path of the text;
give that again by --config.data.path where it is needed. A GPT-2 in Hugging
Face's layout is a folder with a config.json and a model.safetensors, and has no
recipe; name one for its data and its training:

  python -m spectral_jax import FOLDER OUT --config=configs/shakespeare.py \
    [--tokenizer=byte] [--keep=0.25 [--selection=random]]

The layers of a GPT-2 are dense, or with --keep projected. OUT starts at step 0
and has no validation loss; --mode=eval of train.py tells it.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from spectral_jax.commands.runs import fraction, new_path, save
from spectral_jax.convert.project import to_spectral
from spectral_jax.core.selection import KINDS
from spectral_jax.data.tokenizer import make_tokenizer
from spectral_jax.errors import UserError
from spectral_jax.export.loading import load_exported
from spectral_jax.export.trained import Trained
from spectral_jax.models.stored import layers_of
from spectral_jax.training import workdir
from spectral_jax.training.command import define_config_flag
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import Settings


def define_flags() -> None:
  """Defines this command's flags."""
  define_config_flag(None)
  flags.DEFINE_string('keep', None, 'Of a dense model: the fraction to store.')
  flags.DEFINE_enum(
    'selection', 'lowpass', list(KINDS), 'With --keep: which coefficients.'
  )
  flags.DEFINE_string(
    'tokenizer', None, 'Where the model has none: byte, or a file NAME.model.'
  )


def run(arguments: list[str]) -> None:
  """Makes a run, the second argument, of the model in the first.

  Raises:
    UserError: for a model that cannot be read, or is no run of ours.
  """
  if len(arguments) != 2:
    raise UserError(f'expected a model and OUT, got {len(arguments)} paths.')
  source = Path(arguments[0]).expanduser()
  out = new_path(arguments[1])
  trained = load_exported(source)
  settings = Settings.from_mapping(_recipe(trained, source))
  tokenizer = _tokenizer(trained, source, settings.data.corpus)
  batch = settings.train.batch_size // settings.train.accumulate
  mesh = make_mesh(settings.mesh, batch, settings.model.heads)
  experiment = Experiment(settings, tokenizer, mesh)
  params = trained.params
  if flags.FLAGS.keep is not None:
    params = to_spectral(params, layers_of(experiment.model))
  digest = trained.digest
  if flags.FLAGS.config is not None or not digest:
    digest = experiment.digest()
  state = experiment.init_state().replace(params=params)
  workdir.claim(out, settings, digest, tokenizer)
  save(state, out, None)
  print(f'written: {out.absolute()}')


def _recipe(trained: Trained, source: Path) -> dict[str, Any]:
  """The recipe of --config, or the model's own, with its model."""
  values = flags.FLAGS
  recipe = copy.deepcopy(trained.recipe)
  if values.config is not None:
    recipe = values.config.to_dict()
  if not recipe:
    raise UserError(
      f'--config: missing; {source} has no recipe of its own, so name one for '
      'its data and its training.'
    )
  recipe['model'] = dataclasses.asdict(trained.model.config)
  if values.keep is not None:
    if trained.model.config.linear.kind != 'dense':
      raise UserError('--keep: the model is not dense; see convert --keep.')
    recipe['model']['linear'] |= {
      'kind': 'spectral',
      'keep': fraction(values.keep),
      'selection': values.selection,
    }
  return recipe


def _tokenizer(trained: Trained, source: Path, corpus: str) -> Any:
  name = flags.FLAGS.tokenizer
  tokenizer = trained.tokenizer
  if tokenizer is None and name is None:
    raise UserError(
      f'--tokenizer: missing; {source} has none that is known here.'
    )
  if name is not None:
    # As training makes it: only documents have a separator.
    tokenizer = make_tokenizer(name, None if corpus == 'tfds' else '')
  assert tokenizer is not None
  if tokenizer.vocabulary_size != trained.model.vocabulary:
    raise UserError(
      f'--tokenizer: {tokenizer.name} has {tokenizer.vocabulary_size} tokens, '
      f'the model in {source} {trained.model.vocabulary}.'
    )
  return tokenizer
