"""train.py on documents that TensorFlow Datasets prepared."""

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from spectral_jax.errors import UserError
from spectral_jax.training import workdir
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.settings import Settings
from tests.prepared import prepare, sentences, word_pieces
from tests.trainer import assert_refused, train

SMALL = {
  'data.corpus': 'tfds',
  'data.evaluation_documents': '20',
  'model.linear.kind': 'dense',  # the quickest to compile
  'model.width': '32',
  'model.layers': '1',
  'model.heads': '2',
  'model.context': '32',
  'optimizer.name': 'adamw',
  'train.batch_size': '8',
  'train.steps': '10',
  'train.evaluate_every': '10',
  'train.log_every': '5',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  folder = tmp_path_factory.mktemp('prepared')
  texts = sentences(400)
  prepare(folder, 'lm1b', {'train': texts[:300], 'test': texts[300:]})
  prepare(
    folder,
    'c4',
    {'train': texts[:300], 'validation': texts[300:]},
    config='en',
    version='3.1.0',
  )
  return folder


def _arguments(workdir: Path, path: str, tokenizer: str) -> list[str]:
  recipe = SMALL | {'data.path': path, 'data.tokenizer': tokenizer}
  return [
    f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in recipe.items()),
  ]


def _train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
  return train(*arguments, text=folder / 'prepared')


@pytest.mark.long
def test_bytes_of_lm1b(folder: Path, tmp_path: Path) -> None:
  result = _train(folder, *_arguments(tmp_path, 'lm1b', 'byte'))
  assert result.returncode == 0, result.stderr
  assert result.stderr == ''
  assert 'lm1b/1.1.0: 300 documents to train on, 20 to val' in result.stdout
  summary = json.loads((tmp_path / 'summary.json').read_text())
  # Of ASCII a byte is a character; separators are scored, but are none.
  bits = summary['validation_loss'] / np.log(2)
  assert 1 < summary['bits_per_character'] / bits < 1.1


@pytest.mark.long
def test_word_pieces_of_c4(folder: Path, tmp_path: Path) -> None:
  model = tmp_path / 'words.model'
  model.write_bytes(word_pieces(sentences(50)))
  run = tmp_path / 'run'
  result = _train(folder, *_arguments(run, 'c4/en:3.1.0', str(model)))
  assert result.returncode == 0, result.stderr
  assert 'c4/en/3.1.0: 300 documents' in result.stdout
  model.unlink()  # what it learned to read stays readable
  result = _train(
    folder, '--mode=sample', '--prompt=the quick', f'--workdir={run}'
  )
  assert result.returncode == 0, result.stderr
  assert 'the quick' in result.stdout


def test_a_data_set_that_is_not_there_gets_one_line(
  folder: Path, tmp_path: Path
) -> None:
  arguments = _arguments(tmp_path / 'run', 'openwebtext', 'byte')
  assert_refused(_train(folder, *arguments), 'tfds build openwebtext --file_f')
  assert not (tmp_path / 'run').exists()


def _experiment(
  folder: Path, directory: Path, seed: int = 0, path: str = 'lm1b'
) -> Experiment:
  recipe = base.get_config().to_dict()
  recipe['seed'] = seed
  recipe['data'] |= {
    'corpus': 'tfds',
    'path': path,
    'directory': str(folder),
    'tokenizer': 'byte',
  }
  recipe['mesh']['data'] = 1
  settings = Settings.from_mapping(recipe)
  experiment = Experiment.to_train(settings)
  experiment.claim(directory)
  return experiment


def test_batches_go_on_at_any_step(folder: Path, tmp_path: Path) -> None:
  batches = _experiment(folder, tmp_path).train_batches(0)
  expected = [jax.device_get(next(batches)) for _ in range(9)]
  resumed = _experiment(folder, tmp_path)
  for step in (8, 3):
    batch = jax.device_get(next(resumed.train_batches(step)))
    for name in ('inputs', 'targets'):
      np.testing.assert_array_equal(batch[name], expected[step][name])
  other = _experiment(folder, tmp_path / 'other', seed=1)
  batch = next(other.train_batches(0))
  assert (batch['inputs'] != expected[0]['inputs']).any()


def test_another_data_set_is_refused(folder: Path, tmp_path: Path) -> None:
  _experiment(folder, tmp_path)
  (workdir.checkpoints(tmp_path) / '10').mkdir(parents=True)
  _experiment(folder, tmp_path, path='lm1b:1.1.0')
  with pytest.raises(UserError, match='trained on another text'):
    _experiment(folder, tmp_path, path='c4')
