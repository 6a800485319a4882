"""Chosen positions: how many, which, and how they are trained."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import choice, chosen_positions
from benchmarks.chosen_positions import Plan
from benchmarks.runs import recipe
from benchmarks.tables import ROWS
from spectral_jax.core.selection import Selection
from spectral_jax.data.tokenizer import make_tokenizer
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import Settings
from tests.trainer import SMALL, assert_refused, run

COMMAND = ('-m', 'benchmarks.chosen_positions')
QUARTER = Selection('random', (2, 8), 4)


def _experiment(text: Path, keep: float = 1.0, steps: int = 12) -> Experiment:
  row = ROWS['random-nm1']
  flat = recipe(
    row.base,
    (
      *row.flags,
      *SMALL,
      f'--config.model.linear.keep={keep}',
      f'--config.train.steps={steps}',
      f'--config.data.path={text}',
      '--config.mesh.data=1',
    ),
  )
  recipe_ = unflatten_dict(flat, sep='.')['config']
  settings = Settings.from_mapping(recipe_)
  tokenizer = make_tokenizer('char', text.read_text())
  return Experiment(settings, tokenizer, make_mesh(settings.mesh, 8))


def _coefficients(params: object) -> dict[str, np.ndarray]:
  flat = flatten_dict(params, sep='/')
  return {
    name: np.asarray(leaf)
    for name, leaf in flat.items()
    if name.endswith('/coefficients')
  }


@pytest.mark.long
def test_random_positions_are_trained_as_the_selection_s(text: Path) -> None:
  """Gradient, clipping, decay and step are those of a model of K numbers."""
  experiment = _experiment(text)
  plan = Plan('random', 0.25, warm_up=2, rewind=True)
  masked = chosen_positions.train(experiment, plan).params
  quarter = _experiment(text, keep=0.25)
  state, step = quarter.init_state(), quarter.train_step()
  for _, batch in zip(range(12), quarter.train_batches(0), strict=False):
    state, _ = step(state, batch)
  expected = _coefficients(state.params)
  for name, values in _coefficients(masked).items():
    count = expected[name].size
    assert values.size == 4 * count
    # The positions of `random` are nested: the first K are the quarter's.
    np.testing.assert_allclose(values[:count], expected[name], atol=1e-4)
    assert not values[count:].any()
  for name in ('embed', 'head'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      masked[name],
      state.params[name],
    )


@pytest.mark.long
@pytest.mark.parametrize('by', ['gradient', 'rechosen'])
def test_k_positions_are_trained_to_the_end(
  text: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  kept = []
  keep_only = chosen_positions.keep_only

  def spy(state, masks, *, widen):  # type: ignore[no-untyped-def]
    before = _coefficients(state.params)
    squares = _coefficients(state.opt_state.squares)
    state = keep_only(state, masks, widen=widen)
    kept.append((before, squares, _coefficients(state.params)))
    return state

  compiled = []
  make_train_step = chosen_positions.step.make_train_step

  def make(*args, **kwargs):  # type: ignore[no-untyped-def]
    compiled.append(make_train_step(*args, **kwargs))
    return compiled[-1]

  monkeypatch.setattr(chosen_positions, 'keep_only', spy)
  monkeypatch.setattr(chosen_positions.step, 'make_train_step', make)
  plan = Plan(by, 0.25, warm_up=4, every=2)
  end = chosen_positions.train(_experiment(text, steps=16), plan)
  # Rechosen at the steps 6 and 8, half of the 16; at first by weight.
  assert len(kept) == (3 if by == 'rechosen' else 1)
  assert len(compiled) == 1
  assert compiled[0]._cache_size() == 1

  before, squares, after = kept[0]
  final = _coefficients(end.params)
  gain = _coefficients(end.opt_state.gain)
  for name, values in before.items():
    count = values.size // 4
    assert np.count_nonzero(values) == values.size
    scores = squares[name] if by == 'gradient' else values**2
    best = np.sort(np.argsort(-scores, kind='stable')[:count])
    np.testing.assert_array_equal(np.flatnonzero(after[name]), best)
    np.testing.assert_array_equal(after[name][best], values[best])
    assert np.count_nonzero(final[name]) == count
    np.testing.assert_array_equal(gain[name], 4.0 * (final[name] != 0))
    same = np.count_nonzero((final[name] != 0) & (after[name] != 0))
    if by != 'rechosen':
      assert same == count
    else:
      moved = round(0.1 * count)
      assert count - 2 * moved <= same <= count - 1
    assert not np.allclose(final[name], after[name])


def test_the_weakest_kept_give_way_to_the_largest_gradients() -> None:
  count = 20
  random = Selection('random', (5, 8), count)
  kept = np.arange(40) % 2 == 0
  values = np.where(kept, np.arange(40) - 20.5, 0)
  squares = np.arange(40.0)
  mask = choice.choose(
    'rechosen', random, *map(jnp.asarray, (values, squares, kept))
  )
  # The smallest of |i − 20.5| over even i are at 20 and 22; of the odd, those
  # of the largest gradient are the last.
  expected = (set(range(0, 40, 2)) - {20, 22}) | {37, 39}
  assert set(np.flatnonzero(mask)) == expected


def test_the_random_positions_are_those_of_the_selection() -> None:
  mask = choice.mask_of(QUARTER)
  assert mask.tolist() == [True] * 4 + [False] * 12
  whole = dataclasses.replace(QUARTER, count=16)
  lowpass = dataclasses.replace(QUARTER, kind='lowpass')
  there = whole.positions[choice.mask_of(lowpass)]
  assert sorted(there) == sorted(lowpass.positions)


def test_storage_is_the_smaller_of_bitmap_and_numbers() -> None:
  # 128×384 = 49,152 positions: a number below that has 16 bits.
  assert chosen_positions.position_bits(49_152, 12_288) == 49_152
  assert chosen_positions.position_bits(49_152, 100) == 1_600
  assert chosen_positions.position_bits(16, 3) == 12
  assert chosen_positions.position_bits(17, 3) == 15


@pytest.mark.long
def test_the_command_line_measures_and_tells(
  text: Path, tmp_path: Path
) -> None:
  arguments = (
    f'--workdir={tmp_path / "chosen"}',
    '--by=rechosen',
    '--keep=0.1',
    '--steps=110',
    '--warm_up=20',
    '--every=20',
    '--seed=3',
    f'--data={text}',
    '--',
    *(flag for flag in SMALL if not flag.startswith('--config.train.steps')),
  )
  result = run(*COMMAND, *arguments, tmp=text.parent)
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stderr == ''
  assert 'step 100/110  train loss ' in result.stdout
  assert 'stored positions' in result.stdout
  path = tmp_path / 'chosen' / 'chosen_positions.json'
  there = json.loads(path.read_text())
  assert (there['by'], there['seed'], there['steps']) == ('rechosen', 3, 110)
  assert there['settings']['model']['width'] == 32
  assert there['validation_loss'] < 2.5  # nats; it begins near log 27 = 3.3
  assert there['validation_perplexity'] == pytest.approx(
    math.exp(there['validation_loss'])
  )
  # 12,288 coefficients: of the kernels 32×96, 32×32, 32×128 and 128×32 a tenth
  # is 307, 102, 410 and 410. A number has 12 or 10 bits, so that a bitmap is
  # the smaller for all but the 32×32.
  dropped = 12_288 - (307 + 102 + 410 + 410)
  assert there['parameters'] == there['parameters_dense'] - dropped
  bits = (3_072, 1_020, 4_096, 4_096)
  assert there['position_bytes'] == sum(math.ceil(b / 8) for b in bits)
  assert len(there['overlap_lowpass']) == 4
  assert all(0 <= part <= 1 for part in there['overlap_lowpass'].values())


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--by=size'], r'--by=size.*weight\|gradient\|rechosen\|random'),
    (['--warm_up=2000'], r'--warm_up: expected fewer than the 2000'),
    (['--', '--config.seed=1'], r'--config\.seed=1: the benchmark sets it'),
  ],
)
def test_a_bad_flag_gets_one_line(
  tmp_path: Path, arguments: list[str], expected: str
) -> None:
  workdir = tmp_path / 'chosen'
  result = run(*COMMAND, f'--workdir={workdir}', *arguments, tmp=tmp_path)
  assert_refused(result, expected)
  assert not workdir.exists()
