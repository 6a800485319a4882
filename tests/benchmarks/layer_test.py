"""python -m benchmarks.layer as a user types it."""

import re
from pathlib import Path

import pytest

from tests.trainer import assert_refused, run


def test_it_times_the_rebuilding_and_the_layer(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.layer', '--shapes=8x12', '--tokens=4', '--rounds=1'),
    *('--selections=strided/2,block/16', '--dtype=bfloat16'),
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  _, *tables = result.stdout.split('\n\n')
  for table in tables[::2]:
    assert re.search(
      r'\| share of \d+ GFLOP/s or \d+\.\d GB/s \|$', table.splitlines()[0]
    )
  rebuilding, its_picks, layer, layer_s_picks = (
    [row.split(' | ') for row in table.splitlines()[2:]] for table in tables
  )
  exact = {'idctn', 'gemm', 'fft', 'gemm_fft'}
  for found, methods in (
    (rebuilding, exact | {'gemm_bf16'}),
    (layer[1:], exact | {'gemm_bf16', 'factored', 'folded'}),
  ):
    assert {row[0].removeprefix('| ') for row in found} == {
      f'{name}, {method}'
      for name in ('strided nm/2', 'block nm/16')
      for method in methods
    }
  assert rebuilding[0][0] == '| strided nm/2, idctn'
  assert layer[0][0] == '| dense'
  for row in (*rebuilding, *layer):
    assert re.fullmatch(r'\d+\.\d\d (products|memory) \|', row[-1])
  for picks in (its_picks, layer_s_picks):
    assert len(picks) == 2
    for _, picked, ratio, why in picks:
      assert why.startswith(f'{picked} ')
      assert float(ratio) >= 1


def test_several_kernels_by_one_call(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.layer', '--shapes=8x12', '--tokens=4', '--rounds=1'),
    *('--selections=lowpass/3', '--methods=gemm', '--kernels=3'),
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  _, rebuilding, layer = result.stdout.split('\n\n')
  assert rebuilding.startswith('| rebuilding 3 of 8×12, forward and backward |')
  assert layer.startswith('| layer 8×12, 4 tokens')


def test_forward_alone_by_one_method(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.layer', '--shapes=8x12', '--tokens=4', '--rounds=1'),
    *('--selections=lowpass/3', '--methods=factored', '--passes=forward'),
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  _, table = result.stdout.split('\n\n')  # no kernel to rebuild, no picks
  names = [row.split(' | ')[0] for row in table.splitlines()]
  title = '| layer 8×12, 4 tokens, float32, forward'
  assert names == [
    title,
    '|---|---|---|---|---|',
    '| dense',
    '| lowpass nm/3, factored',
  ]


@pytest.mark.parametrize(
  ('flag', 'expected'),
  [
    ('--shapes=0x4', r"--shapes: expected NxM, .*'0x4'"),
    ('--shapes=8x9', r'--selections: keep: a strided selection .* 8×9 kernel'),
  ],
)
def test_a_bad_flag_gets_one_line(
  tmp_path: Path, flag: str, expected: str
) -> None:
  assert_refused(run('-m', 'benchmarks.layer', flag, tmp=tmp_path), expected)
