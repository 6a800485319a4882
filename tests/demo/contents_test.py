"""What the page is told of a model."""

import dataclasses
import json
from pathlib import Path

import pytest

from spectral_jax.data.word_pieces import SentencePieceTokenizer
from spectral_jax.demo import contents
from spectral_jax.demo.runtime import FILES
from spectral_jax.errors import UserError
from spectral_jax.layers.linear import LinearConfig
from tests.exported import random_model
from tests.prepared import sentences, word_pieces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  for name in (*FILES, 'another'):
    (tmp_path / name).touch()
  return tmp_path


@pytest.mark.parametrize('basis', ['dct', 'orthonormal'])
def test_sizes_and_coefficients(folder: Path, basis: str) -> None:
  pytest.importorskip('onnx', reason='wants requirements-export.txt')
  trained = random_model(linear=LinearConfig(keep=0.25, basis=basis))
  files = contents.files(trained, folder)
  assert {'index.html', 'worker.js', f'runtime/{FILES[2]}'} < files.keys()
  assert 'runtime/another' not in files
  about = json.loads(files['about.json'])
  dense = random_model(linear=LinearConfig(kind='dense')).bytes
  assert about['bytes'] == len(files['model.onnx'])
  assert about['dense_bytes'] == dense
  assert (about['bytes'] < dense) == (basis == 'dct')
  names = [spectrum['name'] for spectrum in about['spectra']]
  assert names == list(trained.model.config.kernel_shapes())
  for spectrum in about['spectra']:
    cells = [cell for row in spectrum['cells'] for cell in row]
    assert spectrum['stored'] == 0.25
    assert None in cells


def test_pieces_of_words_are_refused(folder: Path) -> None:
  tokenizer = SentencePieceTokenizer(word_pieces(sentences(50)))
  trained = dataclasses.replace(random_model(), tokenizer=tokenizer)
  with pytest.raises(UserError, match='knows the tokenizers char and byte'):
    contents.files(trained, folder)
