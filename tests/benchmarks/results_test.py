"""Tables from results: figures by hand, and what the documents show."""

import copy
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from benchmarks import results
from benchmarks.result_plots import draw_ranks, draw_sizes, draw_steps
from benchmarks.runs import Run, recipe
from benchmarks.table import Reported, Table
from benchmarks.tables import ROWS, TABLES
from configs import paper
from spectral_jax.errors import UserError
from spectral_jax.models.transformer import Transformer
from spectral_jax.training.settings import Settings

REPOSITORY = Path(__file__).parent.parent.parent
VOCABULARY = {
  'tiny_shakespeare': 65,
  'shakespeare_plays': 63,
  'python_sources': 256,
}
TABLE = Table(
  'version1',
  'A title',
  steps=2000,
  seeds=3,
  rows=(ROWS['dense'], ROWS['lowpass-nm2'], ROWS['low-rank-16']),
  paper=Reported('perplexity', {'dense': 6.1, 'low-rank-16': 8.8}),
)


def _run(row: str, seed: int, loss: float, **facts: object) -> dict:
  flags = results._differing(
    recipe(ROWS[row].base, ROWS[row].flags), recipe('dense', ())
  )
  return {
    'row': row,
    'seed': seed,
    'steps': 2000,
    'tokens': 4_096_000,
    'flags': flags,
    'validation_loss': loss,
    'parameters': 826_368 if row == 'dense' else 433_152,
    'parameters_ratio': 1.0,
    'stable_rank': None,
    'train_seconds': 600.0,
    'date': '2026-11-22',
    'jax': '0.10.1',
    'python': '3.11.7',
    'device': 'cpu (cpu), 1 of 1',
  } | facts


RESULTS = {
  'runs': [
    _run('dense', 0, 1.5),
    _run('lowpass-nm2', 0, 1.5, stable_rank=40.0),
    _run('lowpass-nm2', 1, 1.6, stable_rank=41.0, date='2026-11-23'),
    _run('lowpass-nm2', 2, 1.7, stable_rank=42.0),
    _run('lowpass-nm2', 0, 3.0, steps=500),
    _run('random-nm2', 0, 3.0),
  ]
}


def test_a_told_run_is_of_the_same_recipe(tmp_path: Path) -> None:
  def told(row: str, seed: int, steps: int, *flags: str) -> bool:
    run = Run(ROWS[row], steps, seed, flags, tmp_path)
    return results.is_told(run, RESULTS['runs'])

  assert told('lowpass-nm2', 1, 2000, '--config.data.path=elsewhere.txt')
  assert not told('lowpass-nm2', 1, 500)
  assert not told('lowpass-nm2', 3, 2000)
  assert not told('lowpass-nm4', 1, 2000)
  assert not told('lowpass-nm2', 1, 2000, '--config.model.width=64')


def _settings(row: str) -> Settings:
  config = ConfigDict(paper.get_config(ROWS[row].base))
  for key, value in recipe(ROWS[row].base, ROWS[row].flags).items():
    config.update_from_flattened_dict({key.removeprefix('config.'): value})
  return Settings.from_mapping(config.to_dict())


def _parameters(row: str) -> int:
  model = Transformer(VOCABULARY[ROWS[row].corpus], _settings(row).model)
  tokens = jnp.zeros((1, 8), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('row', ROWS)
def test_every_row_is_a_recipe(row: str) -> None:
  settings = _settings(row)
  rate = (
    settings.optimizer.muon_learning_rate
    if settings.optimizer.name == 'muon'
    else settings.optimizer.learning_rate
  )
  assert rate == ROWS[row].rate
  assert (settings.model.linear.kind == 'dense') == (
    ROWS[row].family.partition(',')[0] == 'dense'
  )


def test_a_name_means_one_row() -> None:
  for table in TABLES.values():
    assert len({row.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
      assert ROWS[row.name] == row
    if table.paper:
      assert table.paper.values.keys() <= {row.name for row in table.rows}


@pytest.mark.parametrize('name', TABLES)
def test_the_dense_model_stores_what_the_table_says(name: str) -> None:
  table = TABLES[name]
  assert table.rows[0].family == 'dense'
  assert _parameters(table.rows[0].name) == table.dense_parameters


def _stored(row: str) -> float:
  """Numbers that are left, and a bit for each position if any are dropped."""
  settings = _settings(row)
  drop_to = settings.optimizer.drop_to
  if drop_to == 1:
    return _parameters(row)
  kernels = 12 * settings.model.layers * settings.model.width**2
  return _parameters(row) - (1 - drop_to - 1 / 32) * kernels


@pytest.mark.parametrize('name', [n for n in TABLES if 'width' in n])
def test_wider_models_store_no_more_than_the_dense_one(name: str) -> None:
  dense, *wider = (_stored(row.name) for row in TABLES[name].rows)
  for stored in wider:
    assert 0.95 * dense < stored <= dense


def test_rows_are_read_without_jax() -> None:
  script = (
    'import sys, benchmarks.tables, benchmarks.paper_table\n'
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', script], cwd=REPOSITORY, check=True)


def test_mean_and_spread_by_hand() -> None:
  mean, spread = results.mean_and_spread([1.5, 1.6, 1.7])
  assert mean == pytest.approx(1.6)
  assert spread == pytest.approx(0.1)
  assert results.mean_and_spread([2.0, 4.0]) == (3.0, pytest.approx(2**0.5))
  assert results.mean_and_spread([1.5]) == (1.5, None)


def test_scores_take_the_table_s_rows_and_steps() -> None:
  found = results.scores(TABLE, RESULTS)
  assert list(found) == ['dense', 'lowpass-nm2']
  lowpass = found['lowpass-nm2']
  assert lowpass.seeds == (0, 1, 2)
  assert lowpass.loss == pytest.approx(1.6)
  assert lowpass.perplexity == pytest.approx(math.exp(1.6))
  assert lowpass.stable_rank == 41.0
  assert found['dense'].stable_rank is None


def test_a_table_in_markdown() -> None:
  text = results.markdown(TABLE, RESULTS)
  title, before, _, _, dense, lowpass, *after = text.splitlines()
  empty, made, between, missing = after
  assert title == '**A title**'
  assert not before
  assert dense == (
    '| dense | 0.003 | 826,368 | 100.0% | 1 | 1.500 | 4.48 | – | – | 6.1 |'
  )
  assert lowpass == (
    '| lowpass nm/2 | 0.003 | 433,152 | 52.4% | 3 | 1.600 ± 0.100 | 4.95 | '
    '+0.000 | 41.0 | – |'
  )
  assert not empty
  assert not between
  assert missing == 'Not run: low rank 16.'
  assert made == (
    '2,000 steps (4,096,000 tokens); seeds 0, 1, 2; ± is the sample standard '
    'deviation over them; cpu (cpu), 1 of 1; jax 0.10.1; Python 3.11.7; '
    '2026-11-22 to 2026-11-23; by `python -m benchmarks.paper_table '
    '--workdir=DIR --tables=version1`'
  )


def test_chosen_positions_take_room_beside_the_numbers() -> None:
  chosen = copy.deepcopy(RESULTS)
  chosen['runs'][1]['position_bytes'] = 98_304
  text = results.markdown(TABLE, chosen)
  # As 24,576 numbers in float32 do.
  assert '| 433,152 | 55.4% | 3 |' in text


def test_rows_are_compared_seed_by_seed() -> None:
  paired = copy.deepcopy(RESULTS)
  paired['runs'] += [
    _run('dense', 1, 1.3),
    _run('dense', 3, 9.0),  # of more seeds than the table has
    _run('low-rank-16', 2, 1.8),
  ]
  found = results.scores(TABLE, paired)
  assert found['dense'].seeds == (0, 1)
  assert found['lowpass-nm2'].over(found['dense']) == pytest.approx([0, 0.3])
  # No seed of both: the means.
  assert found['low-rank-16'].over(found['dense']) == pytest.approx([0.4])
  _, lowpass, rank = results.markdown(TABLE, paired).splitlines()[4:7]
  assert '| 1.600 ± 0.100 | 4.95 | +0.150 ± 0.212 |' in lowpass
  assert '| +0.400 |' in rank


def test_the_best_dense_row_is_so_by_the_seeds_of_all() -> None:
  table = dataclasses.replace(TABLE, rows=(*TABLE.rows, ROWS['dense-0.006']))
  runs = copy.deepcopy(RESULTS)
  # By its mean it would be the better one, by seed 0 it is not.
  runs['runs'] += [_run('dense', 1, 1.9), _run('dense-0.006', 0, 1.6)]
  best = results.best_dense(results.scores(table, runs))
  assert best is not None
  assert best.row.name == 'dense'
  assert results.best_dense({}) is None


def test_rows_that_were_not_run_are_told_apart_by_their_rates() -> None:
  rows = (*TABLE.rows, ROWS['dense-0.006'], ROWS['low-rank-48'])
  text = results.markdown(dataclasses.replace(TABLE, rows=rows), RESULTS)
  missing = text.splitlines()[-1]
  assert missing == 'Not run: low rank 16; dense at 0.006; low rank 48.'


def test_the_command_tells_what_was_not_the_table_s() -> None:
  table = dataclasses.replace(TABLE, steps=500)
  text = results.markdown(table, RESULTS)
  assert '--tables=version1 --steps=500 --seeds=1`\n' in text
  smaller = copy.deepcopy(RESULTS)
  smaller['runs'][0]['flags'].append('--config.model.width=32')
  text = results.markdown(TABLE, smaller)
  assert '--tables=version1 -- --config.model.width=32`\n' in text


def test_a_table_without_a_run_is_left_out() -> None:
  assert results.markdown(TABLES['bytes'], RESULTS) == ''


def test_tables_are_put_into_a_document() -> None:
  text = (
    'before\n<!-- table a -->\nold\n<!-- end -->\nbetween\n'
    '<!-- table b -->\n<!-- end -->\nafter <!-- end -->\n'
  )
  new = results.replace_tables(text, {'a': '| x |\n', 'b': ''})
  assert new == text.replace('old\n', '\n| x |\n\n')
  assert results.replace_tables(new, {'a': '| x |\n', 'b': ''}) == new
  with pytest.raises(UserError, match=r"--docs: no table 'b'; there are a"):
    results.replace_tables(text, {'a': ''})
  with pytest.raises(UserError, match=r'--docs: .*<!-- end -->'):
    results.replace_tables('<!-- table a -->\nold\n', {'a': ''})


def test_pictures_of_what_was_run(figures: list) -> None:
  found = results.scores(TABLE, RESULTS)
  log = [
    {'step': step, 'train_loss': 2.0, 'validation_loss': 1.9}
    for step in range(200, 2001, 200)
  ]
  path = Path('nowhere.png')
  draw_sizes(TABLE, found, path)
  draw_ranks(TABLE, found, path)
  dropout = dataclasses.replace(found['dense'], row=ROWS['dense-dropout-0.1'])
  found = {'lowpass-nm2': found['lowpass-nm2'], dropout.row.name: dropout}
  draw_steps(TABLE, found, dict.fromkeys(found, log), path)
  sizes, ranks, steps = figures
  labels = [text.get_text() for text in sizes.legends[0].get_texts()]
  assert sorted(labels) == ['dense', 'lowpass', "open: the paper's"]
  (points,) = ranks.axes[0].lines
  assert (points.get_xdata(), points.get_ydata()) == (
    (41.0,),
    (pytest.approx(1.6),),
  )
  (panel,) = steps.axes
  assert panel.get_title() == 'lowpass'
  legend = [text.get_text() for text in panel.get_legend().get_texts()]
  assert legend == ['lowpass nm/2', 'dense, dropout 0.1']


def test_marks_in_another_basis_are_half_filled(figures: list) -> None:
  found = results.scores(TABLE, RESULTS)
  other = ROWS['lowpass-nm4-orthonormal']
  found[other.name] = dataclasses.replace(found['lowpass-nm2'], row=other)
  draw_sizes(TABLE, found, Path('nowhere.png'))
  (figure,) = figures
  drawn = {
    str(container.get_label()): container.lines[0].get_fillstyle()
    for container in figure.axes[0].containers
  }
  assert drawn == {
    'dense': 'full',
    'lowpass': 'full',
    'lowpass, orthonormal': 'bottom',
  }


def test_the_document_shows_its_results() -> None:
  document = REPOSITORY / 'docs' / 'results.md'
  if not document.exists():
    pytest.skip('there is no docs/results.md yet')
  text = document.read_text()
  there = json.loads((document.parent / 'results.json').read_text())
  assert re.search(r'<!-- table \w+ -->', text)
  tables = {
    name: results.markdown(table, there) for name, table in TABLES.items()
  }
  assert results.replace_tables(text, tables) == text
