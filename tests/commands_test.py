"""`python -m spectral_jax VERB`, as a user types it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import Transformer
from spectral_jax.training.settings import Settings
from tests.trainer import (
  REPOSITORY,
  assert_refused,
  metrics_rows,
  run,
  small,
  train,
  trained,
)


def run_verb(
  *arguments: object, text: Path
) -> subprocess.CompletedProcess[str]:
  return run('-m', 'spectral_jax', *arguments, tmp=text.parent)


def succeed(*arguments: object, text: Path) -> str:
  result = run_verb(*arguments, text=text)
  assert result.returncode == 0, result.stderr
  assert result.stderr == ''
  return result.stdout


def cells(printed: str) -> list[list[str]]:
  return [line.split() for line in printed.splitlines()]


def evaluated(workdir: Path, text: Path) -> float:
  result = train('--mode=eval', f'--workdir={workdir}', text=text)
  assert result.returncode == 0, result.stderr
  _, after = result.stdout.split('loss', 1)
  return float(after.split()[0])


def layers_of(workdir: Path) -> dict[str, SpectralKernel]:
  settings = Settings.from_mapping(
    json.loads((workdir / 'config.json').read_text())
  )
  tokens = jnp.zeros((1, settings.model.context), jnp.int32)
  return find_layers(Transformer(27, settings.model), tokens)


@pytest.fixture(scope='module')
def dense(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  return trained(
    'dense',
    text,
    tmp_path_factory,
    '--config.model.linear.kind=dense',
    '--config.train.steps=40',
  )[0]


def test_inspect(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  (workdir / 'spectra.png').unlink()
  header, *rows = cells(succeed('inspect', workdir, text=text))
  assert header[:3] == ['layer', 'kernel', 'K']
  assert rows[0][:3] == ['block_0/qkv', '32×96', '1,536']
  assert len(rows) == 4 + 2
  for row in rows[:4]:
    rank, stable = float(row[4]), float(row[5])
    assert 1 <= stable <= rank == 32
    assert [0 <= float(part.rstrip('%')) <= 100 for part in row[6:]] == [1] * 3
  assert (workdir / 'spectra.png').stat().st_size > 0


def test_verify_and_go_on_without_what_is_damaged(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  rows = cells(succeed('verify', workdir, text=text))[1:]
  assert [row[-1] for row in rows] == ['good'] * len(rows)
  newest = workdir / 'checkpoints' / '120'
  assert rows[-1][0] == newest.name
  assert float(rows[-1][1]) > 0
  data = max(
    (newest / 'default' / 'd').iterdir(), key=lambda f: f.stat().st_size
  )
  flipped = bytearray(data.read_bytes())
  flipped[len(flipped) // 2] ^= 1
  data.write_bytes(flipped)
  problem = f'damaged: default/d/{data.name} has another SHA-256'
  verified = run_verb('verify', workdir, text=text)
  assert (verified.returncode, verified.stderr) == (1, '')
  assert verified.stdout.splitlines()[-1].endswith(problem)
  evaluation = train('--mode=eval', f'--workdir={workdir}', text=text)
  assert_refused(evaluation, r'checkpoints/120: damaged \(default/d/.*another')
  before = metrics_rows(workdir)
  result = train(*small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  assert 'checkpoint 120: damaged (default/d/' in result.stdout
  assert re.search('goes on from +step 100', result.stdout)
  assert metrics_rows(workdir) == before
  printed = succeed('verify', workdir, text=text)
  assert 'damaged, set aside as' in printed.splitlines()[-1]


def test_elastic(dense: Path, text: Path) -> None:
  printed = succeed(
    'elastic', dense, '--keep=1,0.25', '--selection=random', text=text
  )
  _, trained, full, quarter = cells(printed)
  assert full[1:] == trained[2:]  # 'as trained' is two words
  assert float(quarter[3]) > float(full[3]) + 0.1
  assert int(quarter[2].replace(',', '')) == 4 * int(
    quarter[1].replace(',', '')
  )


@pytest.mark.long
def test_a_dense_run_to_spectral_and_back(
  dense: Path, text: Path, tmp_path: Path
) -> None:
  projected, back = tmp_path / 'projected', tmp_path / 'back'
  printed = succeed('convert', dense, projected, '--keep=0.999', text=text)
  errors = [float(row[1]) for row in cells(printed)[1:5]]
  assert 0 < max(errors) < 0.1
  succeed('convert', projected, back, '--to=dense', text=text)
  after = float(printed.splitlines()[-2].rpartition(' ')[2])
  # What convert says is what eval says, of both.
  assert evaluated(back, text) == pytest.approx(after, abs=2e-4)
  before = json.loads((dense / 'summary.json').read_text())['validation_loss']
  assert after == pytest.approx(before, abs=0.01)
  # The recipe went with it, and training goes on from there.
  config = json.loads((projected / 'config.json').read_text())
  assert config['model']['linear']['keep'] == 0.999
  assert config['model']['linear']['selection'] == 'lowpass'
  linear = [
    f'--config.model.linear.{key}={config["model"]["linear"][key]}'
    for key in ('kind', 'keep', 'selection')
  ]
  steps = '--config.train.steps=40'
  result = train(*small(text, projected, *linear, steps), text=text)
  assert result.returncode == 0, result.stderr
  assert 'goes on from' in result.stdout
  summary = json.loads((projected / 'summary.json').read_text())
  assert summary['validation_loss'] < before


@pytest.mark.long
def test_growing_goes_on_from_its_step(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir, _ = finished
  grown = tmp_path / 'grown'
  printed = succeed(
    'convert', workdir, grown, '--keep=1', '--steps=140', text=text
  )
  assert 'step 120' in printed
  (step,) = (grown / 'checkpoints').glob('[0-9]*')
  old, new = (
    ocp.StandardCheckpointer().restore(folder / 'default')
    for folder in (workdir / 'checkpoints' / '120', step)
  )

  def coefficients(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
      jax.tree_util.keystr(path): leaf
      for path, leaf in leaves
      if 'coefficients' in jax.tree_util.keystr(path)
    }

  before, after = coefficients(old), coefficients(new)
  assert before.keys() == after.keys()
  assert any('mu' in path or 'opt_state' in path for path in before)
  small_K, large_K = (layers_of(folder) for folder in (workdir, grown))
  for path, leaf in before.items():
    assert np.any(leaf != 0)
    name = next(n for n in small_K if f"['{n.split('/')[1]}']" in path)
    if leaf.ndim < 3:  # what Muon keeps beside its momentum
      continue
    np.testing.assert_allclose(
      large_K[name].rebuild(after[path]),
      small_K[name].rebuild(leaf),
      atol=1e-6,
    )
  recipe = ('--config.model.linear.keep=1.0', '--config.train.steps=140')
  result = train(*small(text, grown, *recipe), text=text)
  assert result.returncode == 0, result.stderr
  assert 'step 120' in result.stdout
  rows = (grown / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(rows[0])['step'] == 130


@pytest.mark.parametrize('as_file', [True, False])
def test_any_flax_parameters(as_file: bool, text: Path, tmp_path: Path) -> None:
  kernel = jax.random.normal(jax.random.key(0), (2, 8, 12))
  params = {
    'mlp': {'kernel': kernel, 'bias': jnp.ones((2, 12))},
    'head': {'kernel': kernel[0]},
  }
  source, out, back = (tmp_path / name for name in ('params', 'out', 'back'))
  if as_file:
    source.write_bytes(serialization.msgpack_serialize(jax.device_get(params)))
  else:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(source, params)
  rules = tmp_path / 'rules.json'
  rules.write_text(json.dumps([{'path': 'mlp', 'keep': 1.0, 'shape': [8, 12]}]))
  printed = succeed('convert', source, out, f'--rules={rules}', text=text)
  assert cells(printed)[1][:2] == ['mlp', '2·8×12']
  succeed('convert', out, back, '--to=dense', text=text)
  if as_file:
    restored = serialization.msgpack_restore(back.read_bytes())
  else:
    restored = ocp.StandardCheckpointer().restore(back)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), restored, params
  )


def test_a_small_file_and_back(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  file, back = tmp_path / 'small.safetensors', tmp_path / 'back'
  printed = succeed('export', finished[0], file, '--dtype=int8', text=text)
  assert f'({file.stat().st_size:,} bytes)' in printed
  assert not list(tmp_path.glob('*.partial'))
  succeed('import', file, back, text=text)
  path = f'--config.data.path={text}'
  result = train('--mode=eval', f'--workdir={back}', path, text=text)
  assert result.returncode == 0, result.stderr
  _, after = result.stdout.split('loss', 1)
  summary = json.loads((finished[0] / 'summary.json').read_text())
  assert float(after.split()[0]) == pytest.approx(
    summary['validation_loss'], abs=0.02
  )


@pytest.mark.long
def test_a_run_that_drops_weights(
  text: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
  workdir, printed = trained(
    'dropping',
    text,
    tmp_path_factory,
    '--config.model.linear.keep=1.0',
    '--config.optimizer.gradients=kernels',
    '--config.optimizer.drop_to=0.25',
    '--config.train.steps=40',
  )
  kernels = 32 * 96 + 32 * 32 + 2 * 32 * 128
  assert '0.25 of each is left at the end' in re.sub(r'\s+', ' ', printed)
  summary = json.loads((workdir / 'summary.json').read_text())
  others = summary['parameters_dense'] - kernels
  assert summary['parameters'] == others + kernels // 4
  assert summary['position_bytes'] == kernels // 8
  assert f'{kernels // 8:,} bytes say which' in re.sub(r'\s+', ' ', printed)
  _, *rows = cells(succeed('inspect', workdir, text=text))
  assert [row[2] for row in rows[:4]] == ['768', '256', '1,024', '1,024']
  file, back = tmp_path / 'small.safetensors', tmp_path / 'back'
  succeed('export', workdir, file, text=text)
  assert file.stat().st_size < 4 * summary['parameters'] + kernels // 8 + 9_000
  succeed('import', file, back, text=text)
  path = f'--config.data.path={text}'
  result = train('--mode=eval', f'--workdir={back}', path, text=text)
  _, after = result.stdout.split('loss', 1)
  assert float(after.split()[0]) == pytest.approx(
    summary['validation_loss'], abs=1e-4
  )


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['konvert'], '^error: konvert: no such verb; there are convert, demo, e'),
    (['demo', 'nowhere'], '--workdir: no run in nowhere'),
    (['demo', 'nowhere', '--port=http'], '--port=http'),
    (['import', 'README.md', 'out'], 'README.md: no whole file of safetenso'),
    (['inspect', 'nowhere'], '--workdir: no run in nowhere'),
    (['inspect', 'x', '--checkpont=1'], "flag 'checkpont'"),
    (['convert', 'README.md', 'configs'], 'OUT: configs is there already'),
    (
      ['convert', 'README.md', 'out', '--rules=pyproject.toml'],
      '--rules: pyproject.toml holds no list of rules',
    ),
    (['convert', 'README.md', 'out', '--to=dense'], 'README.md: cannot be rea'),
    (['convert', 'README.md', 'no/out', '--to=dense'], 'OUT: no is no folder'),
  ],
)
def test_a_mistake_gets_one_line(
  arguments: list[str], expected: str, text: Path
) -> None:
  assert_refused(run_verb(*arguments, text=text), expected)
  assert not (REPOSITORY / 'out').exists()


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--keep=0.5', '--selection=lowpass'], '--selection: the run has strided'),
    (['--keep=0.3'], 'a strided selection stores 1/b'),
    (['--keep=0.5', '--steps=0'], '--steps=0'),
  ],
)
def test_a_run_that_cannot_be_converted_so(
  arguments: list[str],
  expected: str,
  finished: tuple[Path, str],
  text: Path,
  tmp_path: Path,
) -> None:
  out = tmp_path / 'out'
  assert_refused(
    run_verb('convert', finished[0], out, *arguments, text=text), expected
  )
  assert not out.exists()
