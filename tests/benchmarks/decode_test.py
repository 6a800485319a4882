"""benchmarks.decode, as a user types it."""

from pathlib import Path

from tests.trainer import assert_refused, run


def test_every_choice_of_weights_is_beside_the_dense_model(
  tmp_path: Path,
) -> None:
  result = run(
    *('-m', 'benchmarks.decode', '--rounds=1', '--batch_sizes=2'),
    *('--selections=strided/2', '--', '--config.model.width=64'),
    *('--config.model.layers=1', '--config.model.context=32'),
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  speeds, sizes = result.stdout.split('| 1 at once, KiB')
  assert '| 2 at once | tokens/s |' in speeds
  names = ('strided nm/2, merged', 'strided nm/2, coefficients')
  for name in ('dense', *names, 'uncached, dense'):
    assert f'| {name} | ' in speeds
  rows = [line.strip('| ').split(' | ') for line in sizes.splitlines()[2:]]
  dense, merged, small = ((float(row[5]), float(row[7])) for row in rows)
  assert dense == merged == (1.0, 1.0)
  assert small[0] < 0.85
  assert 0.5 < small[1] < small[0]


def test_a_bad_batch_size_gets_one_line(tmp_path: Path) -> None:
  assert_refused(
    run('-m', 'benchmarks.decode', '--batch_sizes=1,x', tmp=tmp_path),
    r"--batch_sizes: expected numbers, got \['1', 'x'\]",
  )
