"""Every recipe is valid, and its docstring says what a recipe must say."""

import dataclasses
import importlib
import re
import types
from pathlib import Path

import pytest

from benchmarks.runs import recipe
from benchmarks.tables import ROWS as BENCHMARK_ROWS
from configs import base, c4, paper, recommended, shakespeare
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.training.settings import Settings
from spectral_jax.training.workdir import flatten

RECIPES = sorted(
  path.stem
  for path in (Path(__file__).parent.parent / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'base')
)
ROWS = ('dense', 'spectral-50', 'spectral-25', 'low-rank')


def _settings(config: object) -> Settings:
  return Settings.from_mapping(config.to_dict())


def test_the_base_is_valid() -> None:
  _settings(base.get_config())


def test_the_default_is_half_of_the_paper_s_model() -> None:
  settings = _settings(shakespeare.get_config())
  assert settings.data.corpus == 'shakespeare_plays'
  assert settings.model.linear.kind == 'spectral'
  assert settings.model.linear.keep == 0.5
  plain = dataclasses.replace(settings.model, linear=LinearConfig())
  assert plain == dataclasses.replace(
    _settings(paper.get_config()).model, linear=LinearConfig()
  )


def test_rows_differ_in_their_linear_layers_alone() -> None:
  rows = [paper.get_config(row).to_dict() for row in ROWS]
  assert len({str(row['model']['linear']) for row in rows}) == len(ROWS)
  for row in rows:
    _ = Settings.from_mapping(row)
    row['model'].pop('linear')
    row.pop('name')
    assert row == rows[0]


def test_larger_models_are_of_the_size_that_they_are_named_for() -> None:
  for row, parameters in (('gpt2-small', 85e6), ('1.3b', 1.2e9)):
    settings = _settings(c4.get_config(row))
    kernels = settings.model.kernel_shapes().values()
    count = settings.model.layers * sum(n * m for n, m in kernels)
    assert count == pytest.approx(parameters, rel=0.02), row
    assert settings.name == f'c4-{row}'


@pytest.mark.parametrize(
  ('row', 'measured'),
  [
    ('half', 'random-nm2-kernels'),
    ('quarter', 'random-nm4-kernels'),
    ('tenth', 'band-nm10'),
    ('chosen-quarter', 'strided-nm1-left-nm4-kernels'),
    ('chosen-tenth', 'strided-nm1-left-nm10-until-0.75-kernels'),
  ],
)
def test_what_is_recommended_was_measured(row: str, measured: str) -> None:
  flat = flatten(recommended.get_config(row).to_dict())
  assert flat.pop('config.name') == f'recommended-{row}'
  expected = recipe(
    BENCHMARK_ROWS[measured].base, BENCHMARK_ROWS[measured].flags
  )
  del expected['config.name']
  assert flat == expected


@pytest.mark.parametrize('module', [c4, paper, recommended])
def test_an_unknown_row_is_named(module: types.ModuleType) -> None:
  with pytest.raises(ValueError, match=r"row: expected .*got 'third'"):
    module.get_config('third')


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_say_what_to_expect(name: str) -> None:
  described = importlib.import_module(f'configs.{name}').__doc__ or ''
  assert re.search(r'python train\.py', described), 'the command'
  assert re.search(r'CPU cores|GPU|TPU', described), 'the hardware'
  if re.search(r'[Nn]either was trained to its end', described):
    return
  assert re.search(r'\d+ min', described), 'the time'
  assert re.search(r'\d\.\d\d+ nats|\| *\d\.\d\d+', described), 'the score'
