"""python -m benchmarks.layer as a user types it."""

from pathlib import Path

import pytest

from tests.trainer import assert_refused, run


def test_it_times_the_rebuilding_and_the_layer(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.layer', '--shapes=8x12', '--tokens=4', '--rounds=1'),
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  rows = [line for line in result.stdout.splitlines() if ' nm/' in line]
  assert len(rows) == 5 + 4
  assert '| dense | ' in result.stdout
  assert '| strided nm/2, idctn | ' in rows[0]


@pytest.mark.parametrize('shape', ['8', '8x9', '0x4', '65536x4'])
def test_a_bad_shape_gets_one_line(tmp_path: Path, shape: str) -> None:
  assert_refused(
    run('-m', 'benchmarks.layer', f'--shapes={shape}', tmp=tmp_path),
    rf"--shapes: expected NxM, each a multiple of 4 .*'{shape}'",
  )
