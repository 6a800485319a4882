"""Bad steps: which are, what is told of them, what is done, and gone on with.

A batch is made bad by tokens that are not in the vocabulary: their embeddings
are not a number.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import base
from spectral_jax.data import pipeline
from spectral_jax.errors import UserError
from spectral_jax.training import loop, report
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.failures import Failures
from spectral_jax.training.interruption import Interruption
from spectral_jax.training.metrics import read_metrics
from spectral_jax.training.settings import Settings
from spectral_jax.training.watch import locate
from tests.trainer import assert_refused, train

Recipe = Callable[..., Settings]
READ = pipeline.train_batches


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be z ' * 60)

  def make(devices: int = 1, **changes: Any) -> Settings:
    config = base.get_config()
    config.data.corpus = 'text'
    config.data.path = str(text)
    config.data.directory = str(tmp_path)
    config.model.update(context=8, width=8, layers=1, heads=1)
    config.optimizer.update(warmup_steps=2, learning_rate=0.03)
    config.train.update(steps=8, batch_size=4, evaluate_every=2)
    config.train.update(changes)
    config.mesh.data = devices
    return Settings.from_mapping(config.to_dict())

  return make


class _StopsAt(Interruption):
  """As if a signal had come at a step."""

  def __init__(self, step: int):
    super().__init__()
    self._step = step

  def reached(self, step: int) -> bool:
    return step == self._step


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(report, 'draw', lambda *_: None)
  monkeypatch.setattr(report, 'finish', lambda *_: None)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
  """Makes batches bad; returns where the numbers of those read are noted."""

  def begin(*bad: int, key: str = 'inputs', token: int = 10**6) -> list[int]:
    seen: list[int] = []

    def batches(tokens: Any, reader: pipeline.Reader) -> Iterator[Any]:
      read = READ(tokens, reader)
      for number, batch in enumerate(read, reader.first_batch):
        seen.append(number)
        if number in bad:
          batch = batch | {key: np.full_like(batch[key], token)}
        yield batch

    monkeypatch.setattr(pipeline, 'train_batches', batches)
    return seen

  return begin


def _failures(workdir: Path) -> list[dict[str, Any]]:
  lines = (workdir / 'failures.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _rows(workdir: Path) -> list[dict[str, float]]:
  rows = read_metrics(workdir)
  for row in rows:
    row.pop('tokens_per_second')
    row.pop('train_seconds')
  return rows


def _state(settings: Settings, workdir: Path) -> list[np.ndarray]:
  _, state = loop.restore(settings, workdir, 'latest')
  assert int(state.step) == settings.train.steps
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _assert_same_run(settings: Settings, one: Path, other: Path) -> None:
  for a, b in zip(_state(settings, one), _state(settings, other), strict=True):
    np.testing.assert_array_equal(a, b)
  assert str(_rows(one)) == str(_rows(other))  # nan is not nan
  assert _failures(one) == _failures(other)


def test_a_stop_tells_all_there_is_to_find_the_batch(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path
) -> None:
  spoil(4)
  settings, workdir = recipe(), tmp_path / 'run'
  with pytest.raises(
    UserError,
    match=r'^step 5: train_loss is nan, so training stopped \(last good '
    r'checkpoint: step 4; loss nan, gradient norm nan, most of it in '
    r'[\w/]+ nan, .*; batch 4: token \d+; token \d+; token \d+ and 1 more\); '
    r'lower .*on_nonfinite=rollback',
  ) as caught:
    loop.train(settings, workdir)
  assert '\n' not in str(caught.value)
  (failure,) = _failures(workdir)
  assert failure['action'] == 'stop'
  assert failure['loss'] == 'nan'
  assert len(failure['worst']) == 3
  # The same command goes on, and stops there again; the line is not doubled.
  with pytest.raises(UserError, match=r'^step 5: '):
    loop.train(settings, workdir)
  assert len(_failures(workdir)) == 1
  # With another answer, it goes on to the end.
  loop.train(recipe(on_nonfinite='rollback'), workdir)
  assert _rows(workdir)[-1]['step'] == 8


def test_the_rows_that_are_named_are_those_of_the_batch(
  recipe: Recipe, tmp_path: Path
) -> None:
  experiment = Experiment.to_train(recipe())
  tokens = experiment.tokenizer.encode(experiment.corpus.train)
  for number in (0, 7, 400):  # in another epoch, too
    batch = next(experiment.train_batches(number))
    places = locate(experiment, number)
    for row, place in zip(batch['inputs'], places, strict=True):
      start = int(place.removeprefix('token '))
      np.testing.assert_array_equal(row, tokens[start : start + 8])


@pytest.mark.parametrize(
  'devices', [1, pytest.param(4, marks=pytest.mark.long)]
)
def test_a_skipped_step_is_counted_and_a_resumed_run_ends_alike(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path, devices: int
) -> None:
  seen = spoil(4, 5)
  settings = recipe(devices, on_nonfinite='skip', log_every=4)
  workdir = tmp_path / 'run'
  loop.train(settings, workdir)
  assert set(seen) >= set(range(8))
  rows = _rows(workdir)
  assert [(row['step'], row['skipped_steps']) for row in rows] == [
    (2, 0),
    (4, 0),
    (6, 2),
    (8, 0),
  ]
  assert np.isnan(rows[2]['train_loss'])  # of no step
  assert rows[2]['validation_loss'] == rows[1]['validation_loss']
  assert rows[3]['validation_loss'] != rows[1]['validation_loss']
  assert [f['step'] for f in _failures(workdir)] == [5, 6]
  if devices == 1:
    again = shutil.copytree(workdir, tmp_path / 'again')
    for step in ('6', '8'):
      shutil.rmtree(again / 'checkpoints' / step)
    loop.train(settings, again)
    _assert_same_run(settings, workdir, again)


def test_after_a_rollback_the_batch_is_not_seen_again(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path
) -> None:
  seen = spoil(5, 7)
  settings = recipe(on_nonfinite='rollback', log_every=1)
  workdir = tmp_path / 'run'
  loop.train(settings, workdir)
  first, second = _failures(workdir)
  assert (first['step'], first['batch'], first['to']) == (6, 5, 4)
  assert (second['step'], second['batch'], second['to']) == (6, 7, 4)
  assert [n for n in seen if n >= 4] == [4, 5, 6, 7, 8, 9, 10, 11]
  assert [row['step'] for row in _rows(workdir)] == list(range(1, 9))
  # From the start, and from where the first rollback went to.
  for name, lost in (('anew', ('4', '6', '8')), ('on', ('6', '8'))):
    again = shutil.copytree(workdir, tmp_path / name)
    for step in lost:
      shutil.rmtree(again / 'checkpoints' / step, ignore_errors=True)
    loop.train(settings, again)
    _assert_same_run(settings, workdir, again)


def test_an_interrupted_run_goes_on_with_another_answer(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path
) -> None:
  spoil(4)
  workdir = tmp_path / 'run'
  changes = {'steps': 12, 'log_every': 12, 'evaluate_every': 12}
  for stops, answer in ((6, 'skip'), (8, 'stop'), (12, 'skip')):
    loop.train(recipe(on_nonfinite=answer, **changes), workdir, _StopsAt(stops))
  (row,) = _rows(workdir)
  assert np.isfinite(row['train_loss'])
  assert row['skipped_steps'] == 1
  assert [f['step'] for f in _failures(workdir)] == [5]


def test_a_run_that_nothing_helps_ends(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path
) -> None:
  spoil(*range(3, 100))
  with pytest.raises(UserError, match='stopped after 3 rollbacks to step 2 '):
    loop.train(recipe(on_nonfinite='rollback'), tmp_path / 'back')
  assert len(_failures(tmp_path / 'back')) == 3
  with pytest.raises(UserError, match='10 steps in a row having been skipped'):
    loop.train(recipe(on_nonfinite='skip', steps=20), tmp_path / 'skip')
  assert len(_failures(tmp_path / 'skip')) == 10


def test_a_loss_far_above_the_last_ones_is_bad(
  recipe: Recipe, spoil: Callable[..., list[int]], tmp_path: Path
) -> None:
  spoil(6, key='targets', token=7)  # z, which is rare
  settings = recipe(on_nonfinite='skip', spike_factor=1.2, log_every=1)
  loop.train(settings, tmp_path / 'run')
  (failure,) = _failures(tmp_path / 'run')
  assert failure['step'] == 7
  assert failure['reason'].startswith('train_loss is above 1.2 times the ')
  assert failure['loss'] > 1.2 * _rows(tmp_path / 'run')[5]['train_loss']


def test_a_damaged_file_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
  experiment = Experiment.to_train(recipe())
  deep = '[' * 100_000
  fine = {'worst': {}, 'loss': 'nan', 'gradient_norm': 1, 'rows': []}
  fine |= {'step': 3, 'batch': 2, 'action': 'rollback', 'reason': ''}
  lines = ['', '{', '[]', '{"step": 1}', deep, '\0', '{"worst": {"a": []}}']
  for change in ({'to': -1}, {'batch': 2.0}, {'step': True}, {'more': 1}):
    lines.append(json.dumps(fine | change))
  path = tmp_path / 'failures.jsonl'
  for line in lines:
    path.write_text(json.dumps(fine) + '\n' + line + '\n')
    with pytest.raises(UserError, match=r'failures\.jsonl, line 2: ') as caught:
      Failures(experiment, tmp_path)
    assert '\n' not in str(caught.value)
  path.write_text(json.dumps(fine | {'to': 1}) + '\n')
  assert Failures(experiment, tmp_path).batch(2) == 3  # after batch 2


@pytest.mark.long
def test_the_command_line_ends_with_one_line(
  text: Path, tmp_path: Path
) -> None:
  result = train(
    f'--workdir={tmp_path / "run"}',
    '--config.data.corpus=text',
    f'--config.data.path={text}',
    '--config.model.context=8',
    '--config.model.width=8',
    '--config.model.layers=1',
    '--config.model.heads=1',
    '--config.optimizer.learning_rate=1e38',
    '--config.optimizer.warmup_steps=3',
    '--config.train.on_nonfinite=skip',
    text=text,
  )
  assert_refused(
    result, r'step 1\d: .* 10 steps in a row having been skipped .*batch 1\d'
  )
  assert 'step 3: ' in result.stdout
