"""train.py as a user types it: outputs, resume, kill, evaluate, sample."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.trainer import (
  assert_refused,
  metrics_rows,
  saved,
  small,
  start,
  train,
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
  rows = metrics_rows(workdir)
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
  assert metrics_rows(one) == metrics_rows(other)


def _start(text: Path, workdir: Path) -> subprocess.Popen[str]:
  # A shell that runs the tests in the background has Ctrl-C ignored.
  heed = 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)'
  heed += '; os.execv(sys.argv[1], sys.argv[1:])'
  return start(
    *('-c', heed, sys.executable, 'train.py', *small(text, workdir)),
    tmp=text.parent,
  )


def _stop_at(
  checkpoint: int, workdir: Path, process: subprocess.Popen[str], how: int
) -> tuple[str, str]:
  """Sends a signal once a checkpoint is there; returns what was printed."""
  deadline = time.monotonic() + 120
  while not saved(workdir, checkpoint):
    assert process.poll() is None, 'it ended before it could be stopped'
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(how)
  return process.communicate(timeout=60)


def test_a_stopped_run_ends_as_if_it_had_not_been(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'stopped'
  killed = _start(text, workdir)
  _stop_at(20, workdir, killed, signal.SIGKILL)
  assert killed.returncode == -signal.SIGKILL
  interrupted = _start(text, workdir)
  printed, errors = _stop_at(80, workdir, interrupted, signal.SIGTERM)
  assert interrupted.returncode == 0, errors
  assert 'interrupted; the same command goes on' in printed
  assert 'Traceback' not in errors
  result = train(*small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  resumed = re.search(r'goes on from +step (\d+)', result.stdout)
  assert resumed is not None
  assert 80 <= int(resumed[1]) < 120
  _assert_equal_runs(finished[0], workdir, 120)


def test_a_finished_run_only_reports(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir = shutil.copytree(finished[0], tmp_path / 'run')
  before = metrics_rows(workdir)
  result = train(*small(text, workdir), text=text)
  assert result.returncode == 0, result.stderr
  assert 'perplexity' in result.stdout
  assert 'step 10/120' not in result.stdout
  assert metrics_rows(workdir) == before


def _sample(
  workdir: Path, text: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
  return train(
    *('--mode=sample', f'--workdir={workdir}', *arguments), text=text
  )


def test_sample_goes_on_from_a_prompt(
  finished: tuple[Path, str], text: Path
) -> None:
  """The text alone is on standard output, and begins with the prompt."""
  arguments = ('--prompt=the quick', '--length=60', '--checkpoint=100')
  result = _sample(finished[0], text, *arguments)
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('the quick')
  assert len(result.stdout) == len('the quick') + 60 + 1
  step, speed = result.stderr.splitlines()
  assert step == 'step 100'
  assert re.fullmatch(
    r'60 tokens in [\d.]+ s; [\d,]+ tokens/s after the first 16', speed
  )
  several = _sample(
    *(finished[0], text, *arguments, '--samples=3', '--stop=own', '--top_k=9'),
    *('--temperature=2', '--top_p=0.99'),
  )
  texts = re.split(r'--- sample (\d) of 3 ---\n', several.stdout)
  assert texts[::2][0] == ''
  assert texts[1::2] == ['1', '2', '3']
  shown = texts[2::2]
  assert len(set(shown)) == 3
  for each in shown:
    assert each.startswith('the quick')
    assert 'own' not in each


def test_who_reads_a_sample_may_have_enough(
  finished: tuple[Path, str], text: Path
) -> None:
  process = start(
    *('train.py', '--mode=sample', f'--workdir={finished[0]}'),
    *('--length=1000000000',),
    tmp=text.parent,
  )
  assert process.stdout is not None
  assert process.stderr is not None
  with process.stderr:
    process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read().splitlines() == ['step 120']
  assert process.wait(timeout=120) == 141


def test_help_explains_every_flag_and_key(text: Path) -> None:
  result = train('--help', text=text)
  described = result.stdout
  for flag in ('workdir', 'mode', 'checkpoint', 'prompt', 'config.train.steps'):
    assert f'--{flag}: ' in described


def test_eval_scores_a_checkpoint_also_elsewhere(
  finished: tuple[Path, str], text: Path, tmp_path: Path
) -> None:
  workdir, _ = finished
  moved = tmp_path / 'moved.txt'
  moved.write_text(text.read_text())
  result = train(
    '--mode=eval',
    f'--workdir={workdir}',
    f'--config.data.path={moved}',
    text=text,
  )
  assert result.returncode == 0, result.stderr
  loss = json.loads((workdir / 'summary.json').read_text())['validation_loss']
  validation, test = result.stdout.split('test ─')
  assert f'{loss:.4f} nats' in validation
  assert 'perplexity' in test
  assert_refused(
    train('--mode=eval', f'--workdir={workdir}', '--config.seed=9', text=text),
    r'another config \(config\.seed is 0 there, 9 here\)',
  )
