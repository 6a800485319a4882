"""Recipes are read whole, and each mistake in one is named."""

import copy
import re
from typing import Any

import pytest

from configs import base
from spectral_jax.errors import UserError
from spectral_jax.training.settings import Settings, keys


@pytest.fixture
def recipe() -> dict[str, Any]:
  return copy.deepcopy(base.get_config().to_dict())


def _set(recipe: dict[str, Any], key: str, value: object) -> None:
  *sections, last = key.split('.')
  for section in sections:
    recipe = recipe[section]
  recipe[last] = value


def test_a_recipe_survives_the_round_trip(recipe: dict[str, Any]) -> None:
  settings = Settings.from_mapping(recipe)
  assert settings.to_mapping() == recipe
  assert Settings.from_mapping(settings.to_mapping()) == settings


def test_every_key_is_documented(recipe: dict[str, Any]) -> None:
  def flat(section: dict[str, Any], where: str) -> set[str]:
    found = set()
    for key, value in section.items():
      inner = isinstance(value, dict)
      name = f'{where}.{key}'
      found |= flat(value, name) if inner else {name}
    return found

  documented = keys()
  assert documented.keys() == flat(recipe, 'config')
  assert min(len(line) for line in documented.values()) > 10


def test_a_whole_number_serves_as_a_number(recipe: dict[str, Any]) -> None:
  _set(recipe, 'optimizer.weight_decay', 0)
  decay = Settings.from_mapping(recipe).optimizer.weight_decay
  assert isinstance(decay, float)


@pytest.mark.parametrize(
  ('key', 'value', 'expected'),
  [
    (
      'train.stpes',
      3,
      'config.train.stpes: no such key; nearest: config.train.steps',
    ),
    ('train.steps', 0, 'config.train.steps: expected at least 1'),
    (
      'train.steps',
      2.5,
      'config.train.steps: expected a whole number, got 2.5',
    ),
    ('train.steps', True, 'config.train.steps: expected a whole number'),
    ('train.accumulate', 3, 'config.train.accumulate: expected a divisor'),
    ('train', 7, 'config.train: expected a section'),
    ('name', '../x', 'config.name: expected letters'),
    ('seed', -1, 'config.seed: expected 0 to'),
    ('data.evaluation_documents', -1, 'evaluation_documents: expected 0 or'),
    ('mesh.data', 0, 'config.mesh.data: expected -1'),
    ('optimizer.name', 'sgd', 'config.optimizer.name: expected adamw or muon'),
    (
      'optimizer.learning_rate',
      0.0,
      'config.optimizer.learning_rate: expected',
    ),
    ('optimizer.learning_rate', float('nan'), 'learning_rate: expected'),
    ('optimizer.b2', 1.0, 'config.optimizer.b2: expected'),
    ('optimizer.final_fraction', 1.5, 'config.optimizer.final_fraction'),
    ('optimizer.weight_decay', -0.1, 'config.optimizer.weight_decay'),
    ('optimizer.drop_to', 0.0, 'config.optimizer.drop_to: expected above 0'),
    ('optimizer.drop_to', 1.5, 'config.optimizer.drop_to: expected above 0'),
    ('optimizer.drop_until', 0.1, 'drop_until: expected above 0.1 and up to 1'),
    ('model.heads', 3, 'config.model.heads: expected a divisor of the width'),
    ('model.dropout', 1.0, 'config.model.dropout: expected'),
    ('model.linear.keep', 0.0, 'config.model.linear.keep: expected'),
    ('model.linear.keep', 1.5, 'config.model.linear.keep: expected'),
    ('model.linear.kind', 'dens', 'config.model.linear.kind: expected'),
    ('model.linear.keep', 'half', "keep: expected a number, got 'half'"),
    ('model.linear.keep', 0.3, 'config.model.linear.keep: a strided'),
    ('model.linear.selection', 'high', 'config.model.linear.selection'),
    ('model.linear.method', 'fast', 'config.model.linear.method: expected'),
  ],
)
def test_a_mistake_is_named(
  recipe: dict[str, Any], key: str, value: object, expected: str
) -> None:
  _set(recipe, key, value)
  with pytest.raises(UserError, match=re.escape(expected)) as caught:
    Settings.from_mapping(recipe)
  assert '\n' not in str(caught.value)


def test_a_missing_key_is_named(recipe: dict[str, Any]) -> None:
  del recipe['optimizer']['b2']
  with pytest.raises(UserError, match=r'config\.optimizer\.b2: missing'):
    Settings.from_mapping(recipe)


def test_low_rank_layers_drop_nothing(recipe: dict[str, Any]) -> None:
  _set(recipe, 'model.linear.kind', 'low_rank')
  _set(recipe, 'optimizer.drop_to', 0.5)
  with pytest.raises(
    UserError, match=r'config\.optimizer\.drop_to: expected 1'
  ):
    Settings.from_mapping(recipe)


def test_a_rank_that_no_kernel_has_is_named(recipe: dict[str, Any]) -> None:
  _set(recipe, 'model.linear.kind', 'low_rank')
  _set(recipe, 'model.linear.rank', 129)
  with pytest.raises(UserError, match=r'linear\.rank: expected at most 128'):
    Settings.from_mapping(recipe)


@pytest.mark.parametrize(
  ('field', 'value', 'expected'),
  [
    ('rebuild_every', 'microbatch', 'train.rebuild_every: expected step, or'),
    ('share_rebuilding', True, 'train.share_rebuilding: expected False, or'),
  ],
)
def test_gradients_of_kernels_rebuild_them_once_and_everywhere(
  recipe: dict[str, Any], field: str, value: object, expected: str
) -> None:
  _set(recipe, f'train.{field}', value)
  Settings.from_mapping(recipe)
  _set(recipe, 'optimizer.gradients', 'kernels')
  with pytest.raises(UserError, match=re.escape(f'config.{expected}')):
    Settings.from_mapping(recipe)
  _set(recipe, 'model.linear.kind', 'dense')
  Settings.from_mapping(recipe)
