"""What the benchmarks' flags mean, and what they answer to a bad one."""

import dataclasses
import re
from collections.abc import Callable

import jax
import pytest

from benchmarks import contenders
from benchmarks.compiled import memory_of
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.training import sharding
from spectral_jax.training.aot import step_arguments


def test_dense_comes_first_then_each_selection_by_each_method() -> None:
  found = contenders.dense_and_spectral(
    contenders.parse_selections(['strided/2', 'block/16']),
    contenders.parse_methods(['gemm', 'auto', 'gemm']),
  )
  assert list(found) == [
    'dense',
    'spectral strided nm/2, gemm',
    'spectral strided nm/2, auto',
    'spectral block nm/16, gemm',
    'spectral block nm/16, auto',
  ]
  assert found['spectral block nm/16, gemm'] == LinearConfig(
    keep=1 / 16, selection='block', method='gemm'
  )


@pytest.mark.parametrize(
  ('parse', 'expected'),
  [
    (lambda: contenders.parse_selections(['strided']), "KIND/B.*'strided'"),
    (lambda: contenders.parse_selections(['block/0']), "KIND/B.*'block/0'"),
    (lambda: contenders.parse_selections(['full/2']), "lowpass, .*'full/2'"),
    (lambda: contenders.parse_methods(['fast']), "idctn, gemm.*'fast'"),
    (lambda: contenders.read_settings(4, ['x']), "argument 'x'"),
    (
      lambda: contenders.read_settings(4, ['--config.train.batch_size=2']),
      'train.batch_size=2: see --help',
    ),
    (
      lambda: contenders.read_settings(4, ['--config.model.width=wide']),
      'width=wide: expected a whole number',
    ),
    (
      lambda: contenders.experiment(
        contenders.read_settings(4, []),
        LinearConfig(selection='strided', keep=1 / 3),
        'adamw',
      ),
      '--selections: linear.keep: a strided selection',
    ),
  ],
)
def test_a_bad_flag_gets_one_line(
  parse: Callable[[], object],
  expected: str,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with pytest.raises(SystemExit) as ended:
    parse()
  assert ended.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert re.search(f'^error: .*{expected}', line), line


def test_what_auto_picks_is_told_for_each_kind_of_layer() -> None:
  settings = contenders.read_settings(4, [])
  linear = contenders.parse_selections(['strided/2'])['strided nm/2']
  auto = contenders.experiment(settings, linear, 'adamw', jax.devices()[:1])
  lines = contenders.picks(auto)
  assert [line.partition(':')[0] for line in lines] == [
    '128×384',
    '128×128',
    '128×512',
    '512×128',
  ]
  by_kernels = contenders.read_settings(
    4, ['--config.optimizer.gradients=kernels']
  )
  whole = contenders.experiment(by_kernels, linear, 'adamw', jax.devices()[:1])
  assert all('folded' not in line for line in contenders.picks(whole))
  shared = contenders.read_settings(4, ['--config.train.share_rebuilding=true'])
  parts = contenders.experiment(shared, linear, 'adamw', jax.devices()[:2])
  assert contenders.picks(parts) == []
  by_gemm = dataclasses.replace(linear, method='gemm')
  forced = contenders.experiment(settings, by_gemm, 'adamw', jax.devices()[:1])
  assert contenders.picks(forced) == []


@pytest.mark.parametrize(
  ('flag', 'rounds'),
  [
    ('--config.train.accumulate=1', True),
    ('--config.train.accumulate=2', True),
    ('--config.optimizer.gradients=kernels', False),
  ],
)
def test_auto_picks_rounded_factors_for_kernels_that_meet_bfloat16(
  flag: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(sharding, 'platform', lambda mesh: 'tpu')
  narrow = contenders.read_settings(4, ['--config.model.dtype=bfloat16', flag])
  linear = contenders.parse_selections(['strided/2'])['strided nm/2']
  auto = contenders.experiment(narrow, linear, 'adamw', jax.devices()[:1])
  assert {'gemm_bf16' in line for line in contenders.picks(auto)} == {rounds}


def test_muon_takes_the_kernels_of_positions_that_are_no_blocks() -> None:
  settings = contenders.read_settings(4, [])
  layers = contenders.parse_selections(['strided/2', 'random/2'])
  gradients = [
    contenders.experiment(
      settings, linear, optimizer, jax.devices()[:1]
    ).settings.optimizer.gradients
    for optimizer in ('adamw', 'muon')
    for linear in layers.values()
  ]
  assert gradients == ['coefficients'] * 3 + ['kernels']


@pytest.mark.parametrize(
  'selection',
  [
    'strided/2',
    pytest.param('strided/4', marks=pytest.mark.long),
    pytest.param('random/2', marks=pytest.mark.long),
  ],
)
def test_a_spectral_step_takes_no_more_memory_than_a_dense_one(
  selection: str,
) -> None:
  """The paper's model; kernels are rebuilt as `auto` has it."""
  settings = contenders.read_settings(16, [])
  taken = []
  for linear in (
    LinearConfig('dense'),
    *contenders.parse_selections([selection]).values(),
  ):
    each = contenders.experiment(settings, linear, 'adamw', jax.devices()[:1])
    step = each.train_step()
    arguments = step_arguments(each)
    taken.append(memory_of(step.lower(*arguments).compile()))
  dense, spectral = taken
  assert spectral <= dense
