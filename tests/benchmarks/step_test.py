"""benchmarks.train_step and benchmarks.compile_time, as a user types them."""

from pathlib import Path

from tests.trainer import assert_refused, run

SMALL = (
  '--rounds=1',
  '--batch_size=2',
  '--selections=strided/2',
  '--',
  '--config.model.width=16',
  '--config.model.layers=1',
  '--config.model.context=8',
)


def test_steps_are_timed_beside_each_other(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.train_step', '--optimizers=adamw', '--methods=auto'),
    *SMALL,
    tmp=tmp_path,
  )
  assert result.returncode == 0, result.stderr
  assert '| train step, adamw, 2×8 tokens | median ms |' in result.stdout
  assert '| dense | ' in result.stdout
  assert '| spectral strided nm/2, auto | ' in result.stdout
  assert 'spectral strided nm/2, auto, 16×48: ' in result.stdout


def test_stages_of_compiling_are_timed(tmp_path: Path) -> None:
  result = run(
    *('-m', 'benchmarks.compile_time', '--methods=gemm'), *SMALL, tmp=tmp_path
  )
  assert result.returncode == 0, result.stderr
  dense, spectral = (
    [float(cell) for cell in line.strip('| ').split(' | ')[1:]]
    for line in result.stdout.splitlines()[-2:]
  )
  for *seconds, size, memory in (dense, spectral):
    assert len(seconds) == 3
    assert min(size, memory) > 0
    assert seconds[-1] > 0


def test_peers_want_pytorch(tmp_path: Path) -> None:
  (tmp_path / 'torch.py').write_text('raise ImportError("no such module")')
  result = run(
    *('-m', 'benchmarks.train_step', '--peers'),
    tmp=tmp_path,
    PYTHONPATH=str(tmp_path),
  )
  assert_refused(
    result, r'--peers: PyTorch .*no such module.*-r requirements-peers\.txt'
  )
  assert result.stdout == ''


def test_an_unknown_optimizer_gets_one_line(tmp_path: Path) -> None:
  assert_refused(
    run('-m', 'benchmarks.train_step', '--optimizers=sgd', tmp=tmp_path),
    r"--optimizers: expected adamw or muon, got 'sgd'",
  )
