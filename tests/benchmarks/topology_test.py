"""Benchmarks by the TPU's compiler, where libtpu is installed, as in CI."""

from pathlib import Path

import pytest

from tests.trainer import assert_refused, run

pytest.importorskip('libtpu', reason='pip install -r requirements-tpu.txt')
TOPOLOGY = '--topology=v5e:2x2'


def test_a_layer_by_its_compiler(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.layer', TOPOLOGY, '--shapes=128x128', '--tokens=8'),
    *('--selections=strided/2,random/2', '--methods=auto,idctn'),
    '--passes=forward',
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  table = result.stdout.split('\n\n')[1].splitlines()
  assert [row.split(' | ')[0] for row in table[2:]] == [
    '| strided nm/2, idctn',
    '| strided nm/2, gemm',
    '| random nm/2, idctn',
    '| random nm/2, gemm',  # a CPU's would be fft
  ]
  idctn, gemm = (
    [float(cell) for cell in row.strip('| ').split(' | ')[1:]]
    for row in table[2:4]
  )
  assert idctn[1] == 1
  assert 0 < gemm[0] < idctn[0]


def test_a_step_for_a_slice(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.compile_time', TOPOLOGY, '--rounds=1'),
    *('--batch_size=4', '--methods=gemm', '--', '--config.model.layers=1'),
    '--config.model.context=8',
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  assert '| train step, adamw, for v5e:2x2 |' in result.stdout
  assert '| spectral strided nm/2, gemm | ' in result.stdout


def test_what_is_no_slice(tmp_path: Path) -> None:
  assert_refused(
    run('-m', 'benchmarks.layer', '--topology=v5e:3x7', tmp=tmp_path),
    '--topology: there is no v5e:3x7',
  )
