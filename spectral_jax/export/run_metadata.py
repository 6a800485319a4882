"""What makes a run of a model again, as texts at the head of a file."""

import copy
import dataclasses
import json
from typing import Any

from spectral_jax.data.tokenizer import (
  Tokenizer,
  read_tokenizer,
  tokenizer_fields,
)
from spectral_jax.errors import UserError
from spectral_jax.export.tensor_file import TensorFile
from spectral_jax.export.trained import Trained
from spectral_jax.training.settings import Settings

_RECIPE, _TOKENIZER, _DATA = 'recipe', 'tokenizer', 'data'


def run_metadata(trained: Trained) -> dict[str, str]:
  """The recipe, the tokenizer and the SHA-256 of the data.

  Where the data lies on this machine, and which devices trained, is left out. A
  model without a recipe has none of it.
  """
  if not trained.recipe or trained.tokenizer is None:
    return {}
  recipe = copy.deepcopy(trained.recipe)
  recipe['model'] = dataclasses.asdict(trained.model.config)
  recipe['mesh'] = {}
  recipe['data']['directory'] = ''
  if recipe['data']['corpus'] != 'tfds':  # where it is a name, not a place
    recipe['data']['path'] = ''
  return {
    _RECIPE: json.dumps(recipe),
    _TOKENIZER: json.dumps(tokenizer_fields(trained.tokenizer)),
    _DATA: trained.digest,
  }


def has_run(file: TensorFile) -> bool:
  """Whether a file tells of a run."""
  return _RECIPE in file.metadata


def read_run(file: TensorFile) -> tuple[dict[str, Any], Tokenizer, str]:
  """The recipe, the tokenizer and the SHA-256 of the data.

  Raises:
    UserError: for those that are missing, or cannot be.
  """
  recipe = file.json(_RECIPE)
  try:
    recipe = Settings.from_mapping(recipe).to_mapping()
    tokenizer = read_tokenizer(file.json(_TOKENIZER))
  except ValueError as error:
    raise UserError(f'{file.path}: metadata: {error}') from None
  return recipe, tokenizer, file.metadata.get(_DATA, '')
