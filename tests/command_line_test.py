"""train.py as a user types it: outputs, resume, kill, and bad input."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

REPOSITORY = Path(__file__).parent.parent
SMALL = (
  '--config.data.corpus=text',
  '--config.model.width=32',
  '--config.model.layers=1',
  '--config.model.heads=2',
  '--config.model.context=32',
  '--config.model.dropout=0.1',
  '--config.train.batch_size=8',
  '--config.train.steps=120',
  '--config.train.evaluate_every=20',
  '--config.train.log_every=10',
)
OUTPUTS = (
  'config.json',
  'tokenizer.json',
  'metrics.jsonl',
  'summary.json',
  'sample.txt',
  'loss.png',
  'spectra.png',
)


@pytest.fixture(scope='session')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of a dozen words, which a small model learns in a few steps."""
  draw = random.Random(0)
  words = 'the quick brown fox jumps over a lazy dog and runs away'
  path = tmp_path_factory.mktemp('text') / 'words.txt'
  path.write_text(' '.join(draw.choices(words.split(), k=4000)))
  return path


def _environment(tmp: Path, devices: int = 1) -> dict[str, str]:
  return os.environ | {
    'TFDS_DATA_DIR': str(tmp),
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'COLUMNS': '60',
    # Most of a small run's time is compilation, of the same few programs.
    # XLA complains, without need, when it reads them back.
    'JAX_COMPILATION_CACHE_DIR': str(tmp / f'compiled_{devices}'),
    'TF_CPP_MIN_LOG_LEVEL': '3',
  }


def _command(*arguments: str) -> list[str]:
  return [sys.executable, 'train.py', *arguments]


def _train(
  *arguments: str, text: Path, devices: int = 1
) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    _command(*arguments),
    cwd=REPOSITORY,
    env=_environment(text.parent, devices),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def _small(text: Path, workdir: Path, *arguments: str) -> list[str]:
  return [
    f'--workdir={workdir}',
    *SMALL,
    f'--config.data.path={text}',
    *arguments,
  ]


@pytest.fixture(scope='session')
def finished(
  text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
  """A run from start to end: its workdir, and what it printed."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  result = _train(*_small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  assert result.stderr == ''
  return workdir, result.stdout


def _rows(workdir: Path) -> list[dict[str, float]]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  for row in rows:
    # How long it took is all that may differ.
    row.pop('tokens_per_second')
    row.pop('train_seconds')
  return rows


def _parameters(workdir: Path, step: int) -> dict[str, np.ndarray]:
  checkpointer = ocp.StandardCheckpointer()
  restored = checkpointer.restore(
    workdir / 'checkpoints' / str(step) / 'default'
  )
  return restored['params']


def test_a_run_leaves_its_outputs(finished: tuple[Path, str]) -> None:
  workdir, printed = finished
  for name in OUTPUTS:
    assert (workdir / name).stat().st_size > 0, name
    if name not in ('tokenizer.json',):
      assert str(workdir / name) in printed
  assert list((workdir / 'tensorboard').glob('events.out.tfevents.*'))
  steps = {int(path.name) for path in (workdir / 'checkpoints').iterdir()}
  rows = _rows(workdir)
  losses = {
    row['step']: row['validation_loss']
    for row in rows
    if 'validation_loss' in row
  }
  assert list(losses) == [20, 40, 60, 80, 100, 120]
  best = min(losses, key=losses.__getitem__)
  assert steps == {100, 120, best}
  assert losses[120] < 0.8 * losses[20]
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['validation_loss'] == pytest.approx(losses[120], rel=1e-6)
  assert summary['best_step'] == best
  assert summary['bits_per_character'] == pytest.approx(
    losses[120] / np.log(2), rel=1e-6
  )
  stored = sum(leaf.size for leaf in _leaves(_parameters(workdir, 120)))
  assert summary['parameters'] == stored
  assert f'{stored:,} stored' in printed
  assert 'step 10/120' in printed
  assert len((workdir / 'sample.txt').read_text()) > 300


def _leaves(tree: object) -> list[np.ndarray]:
  if isinstance(tree, dict):
    return [leaf for branch in tree.values() for leaf in _leaves(branch)]
  return [np.asarray(tree)]


def _assert_equal_runs(one: Path, other: Path, step: int) -> None:
  ours = _leaves(_parameters(one, step))
  theirs = _leaves(_parameters(other, step))
  for mine, its in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(mine, its)
  assert _rows(one) == _rows(other)


def test_a_killed_run_ends_as_if_it_had_not_been(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'killed'
  command = _command(*_small(text, workdir))
  for milestone in ('20', '80'):
    process = subprocess.Popen(
      command,
      cwd=REPOSITORY,
      env=_environment(text.parent),
      stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (workdir / 'checkpoints' / milestone).exists():
      assert process.poll() is None, 'it ended before it could be killed'
      assert time.monotonic() < deadline
      time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
  result = _train(*_small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  resumed = re.search(r'goes on from +step (\d+)', result.stdout)
  assert resumed is not None
  assert 80 <= int(resumed[1]) < 120
  _assert_equal_runs(finished[0], workdir, 120)


def test_a_finished_run_only_reports(
  finished: tuple[Path, str], text: Path
) -> None:
  workdir, _ = finished
  before = _rows(workdir)
  result = _train(*_small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  assert 'perplexity' in result.stdout
  assert 'step 10/120' not in result.stdout
  assert _rows(workdir) == before


def test_all_devices_share_the_batch(text: Path, tmp_path: Path) -> None:
  # That they compute what one device does is step_test's.
  workdir = tmp_path / 'eight'
  result = _train(
    *_small(text, workdir, '--config.train.steps=20'), text=text, devices=8
  )
  assert result.returncode == 0, result.stderr
  assert 'data 8' in result.stdout
  (row,) = [row for row in _rows(workdir) if 'validation_loss' in row]
  assert row['validation_loss'] < np.log(27)


def test_eval_scores_a_checkpoint(
  finished: tuple[Path, str], text: Path
) -> None:
  workdir, _ = finished
  result = _train('--mode=eval', f'--workdir={workdir}', text=text)
  assert result.returncode == 0, result.stderr
  loss = json.loads((workdir / 'summary.json').read_text())['validation_loss']
  validation, test = result.stdout.split('test ─')
  assert f'{loss:.4f} nats' in validation
  assert 'perplexity' in test


def test_sample_goes_on_from_a_prompt(
  finished: tuple[Path, str], text: Path
) -> None:
  workdir, _ = finished
  arguments = (
    '--mode=sample',
    f'--workdir={workdir}',
    '--prompt=the quick',
    '--length=60',
    '--checkpoint=100',
  )
  result = _train(*arguments, text=text)
  assert result.returncode == 0, result.stderr
  assert 'step 100' in result.stdout
  assert 'the quick' in result.stdout
  assert _train(*arguments, text=text).stdout == result.stdout


def test_help_explains_every_flag_and_key(text: Path) -> None:
  result = _train('--help', text=text)
  described = result.stdout
  for flag in ('workdir', 'mode', 'checkpoint', 'prompt', 'config.train.steps'):
    assert f'--{flag}: ' in described


@pytest.mark.parametrize(
  ('argument', 'expected'),
  [
    ('--config.train.stepz=3', r'config\.train\.stepz: .*config\.train\.steps'),
    ('--config.trian.steps=3', r'config\.trian\.steps: .*config\.train\.steps'),
    ('--config.model.linear.keep=0', r'linear\.keep: .*fraction.*0\.0'),
    ('--config.model.linear.keep=1.5', r'linear\.keep: .*fraction.*1\.5'),
    ('--config.model.linear.keep=half', r"linear\.keep.*number.*'half'"),
    ('--config.train.steps=1e3', r'train\.steps.*whole number'),
    ('--config.model.linear.kind=dens', r'kind: .*dense, spectral.*dens'),
    ('--config=nothing.py', r'--config: no such file as nothing\.py'),
    ('--seed=-1', r'seed=-1.*\[0, 4294967295\]'),
    ('--config=configs/paper.py:full', r'row: .*spectral-50.*full'),
    ('--wrokdir=x', r"'wrokdir'.*workdir"),
    ('train', r"unexpected argument 'train'"),
  ],
)
def test_a_bad_flag_gets_one_line(
  text: Path, argument: str, expected: str
) -> None:
  _assert_refused(_train(argument, text=text), expected)


def _assert_refused(
  result: subprocess.CompletedProcess[str], expected: str
) -> None:
  assert result.returncode == 2, result.stdout + result.stderr
  (line,) = result.stderr.splitlines()
  assert line.startswith('error: ')
  assert re.search(expected, line), line


@pytest.mark.parametrize(
  ('program', 'expected'),
  [
    ('def get_config(:', 'SyntaxError'),
    ('def get_config():\n  return {}["x"]', "KeyError: 'x'"),
    ('def get_config():\n  return 3', 'to_dict'),
    ('def get_config():\n  raise KeyError', 'KeyError: '),
  ],
)
def test_a_recipe_that_fails_gets_one_line(
  text: Path, tmp_path: Path, program: str, expected: str
) -> None:
  path = tmp_path / 'recipe.py'
  path.write_text(program)
  _assert_refused(
    _train(f'--config={path}', text=text), rf'recipe\.py.*{expected}'
  )


def test_bad_data_gets_one_line(text: Path, tmp_path: Path) -> None:
  short = tmp_path / 'short.txt'
  short.write_text('too short')
  latin = tmp_path / 'latin.txt'
  latin.write_bytes(b'caf\xe9' * 1000)
  empty = tmp_path / 'empty.txt'
  empty.touch()
  for path, expected in (
    (tmp_path / 'missing.txt', r'missing\.txt'),
    (short, 'shorter than a context'),
    (latin, r'latin\.txt is not UTF-8'),
    (empty, r'empty\.txt is empty'),
  ):
    workdir = tmp_path / 'run'
    _assert_refused(_train(*_small(path, workdir), text=text), expected)
    assert not workdir.exists()


def test_a_bad_workdir_gets_one_line(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir, _ = finished
  before = sorted(workdir.rglob('*'))
  _assert_refused(
    _train(*_small(text, workdir, '--config.model.width=64'), text=text),
    r'another config \(config\.model\.width is 32 there, 64 here\)',
  )
  other = tmp_path / 'other.txt'
  other.write_text(text.read_text()[::-1])
  _assert_refused(_train(*_small(other, workdir), text=text), 'another text')
  assert sorted(workdir.rglob('*')) == before
  _assert_refused(_train(*_small(text, text), text=text), 'is, or lies below')
  _assert_refused(
    _train(*_small(text, Path('/proc/run')), text=text), 'cannot make /proc/run'
  )
  _assert_refused(
    _train('--mode=eval', f'--workdir={tmp_path}', text=text), 'no run in'
  )
  _assert_refused(
    _train(
      '--mode=sample', f'--workdir={workdir}', '--checkpoint=33', text=text
    ),
    r'--checkpoint: .*latest, best or a step .*120',
  )
  _assert_refused(
    _train(
      '--mode=sample',
      f'--workdir={workdir}',
      '--prompt=the Ångström',
      text=text,
    ),
    r"'Å'.*column 5",
  )


def test_a_run_may_be_evaluated_elsewhere(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir, _ = finished
  moved = tmp_path / 'moved.txt'
  moved.write_text(text.read_text())
  result = _train(
    '--mode=eval',
    f'--workdir={workdir}',
    f'--config.data.path={moved}',
    text=text,
  )
  assert result.returncode == 0, result.stderr
  _assert_refused(
    _train('--mode=eval', f'--workdir={workdir}', '--config.seed=9', text=text),
    r'another config \(config\.seed is 0 there, 9 here\)',
  )


def test_ctrl_c_says_how_to_go_on(text: Path, tmp_path: Path) -> None:
  workdir = tmp_path / 'run'
  process = subprocess.Popen(
    _command(*_small(text, workdir, '--config.train.steps=100000')),
    cwd=REPOSITORY,
    env=_environment(text.parent),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  while not (workdir / 'checkpoints' / '20').exists():
    assert process.poll() is None, 'it ended before it could be interrupted'
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  printed, errors = process.communicate(timeout=60)
  assert process.returncode == 130, errors
  assert 'interrupted; the same command goes on' in printed
  assert 'Traceback' not in errors


def test_a_loss_that_is_not_finite_stops_the_run(
  text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  result = _train(
    *_small(
      text,
      workdir,
      '--config.optimizer.learning_rate=1e38',
      '--config.optimizer.warmup_steps=30',
    ),
    text=text,
  )
  _assert_refused(result, r'step \d+: \w+ is nan, .*last good checkpoint')
  assert not (workdir / 'summary.json').exists()
