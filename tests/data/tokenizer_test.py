"""Tokenizers: round trips, refusals, and what is saved."""

import pathlib
import sys

import numpy as np
import pytest

from spectral_jax.data.tokenizer import (
  ByteTokenizer,
  CharTokenizer,
  Tokenizer,
  load_tokenizer,
  make_tokenizer,
  save_tokenizer,
)
from spectral_jax.errors import UserError

TEXT = f'Ça va ?\r\n\tNaïve – 日本 🎭{chr(sys.maxunicode)}\0\n'


@pytest.mark.parametrize('name', ['char', 'byte'])
def test_round_trip(name: str, tmp_path: pathlib.Path) -> None:
  made = make_tokenizer(name, TEXT)
  save_tokenizer(made, tmp_path / 'tokenizer.json')
  loaded = load_tokenizer(tmp_path / 'tokenizer.json')
  assert loaded == made
  for tokenizer in (made, loaded):
    assert tokenizer.name == name
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary_size
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.decode(ids.tolist()) == TEXT
    assert tokenizer.encode('').shape == (0,)
    assert tokenizer.decode([]) == ''


def test_ids_are_the_places_in_the_sorted_vocabulary() -> None:
  tokenizer = CharTokenizer.from_text('hello, world')
  assert tokenizer.vocabulary == ' ,dehlorw'
  assert tokenizer.vocabulary_size == 9
  assert tokenizer.encode('hold').tolist() == [4, 6, 5, 2]


def test_bytes_are_utf8() -> None:
  assert ByteTokenizer().encode('é日').tolist() == list('é日'.encode())
  assert ByteTokenizer().vocabulary_size == 256
  # A cut character, as a model may write it, is no error.
  assert ByteTokenizer().decode([0xC3, ord('a')]) == '\ufffda'


@pytest.mark.parametrize(
  ('text', 'place'),
  [
    ('é', 'line 1, column 1'),
    ('abé', 'line 1, column 3'),
    ('ab\n\nbé a\né', 'line 3, column 2'),
  ],
)
def test_unknown_character(text: str, place: str) -> None:
  with pytest.raises(UserError) as caught:
    CharTokenizer.from_text('ab \n').encode(text)
  assert f"'é' (U+00E9) at {place}" in str(caught.value)


def test_lone_surrogates() -> None:
  # A terminal that is not UTF-8 passes such characters on.
  with pytest.raises(UserError, match=r'U\+DCE9'):
    CharTokenizer.from_text('ab').encode('\udce9')
  assert ByteTokenizer().encode('\udce9').shape == (3,)


@pytest.mark.parametrize('ids', [[0, -1], [0, 256]])
def test_ids_out_of_range(ids: list[int]) -> None:
  tokenizers: list[Tokenizer] = [CharTokenizer('ab'), ByteTokenizer()]
  for tokenizer in tokenizers:
    with pytest.raises(UserError, match=f'got {ids[1]}'):
      tokenizer.decode(ids)


@pytest.mark.parametrize('vocabulary', ['', 'aba'])
def test_vocabulary_refused(vocabulary: str) -> None:
  with pytest.raises(UserError, match='distinct'):
    CharTokenizer(vocabulary)


def test_unknown_name() -> None:
  with pytest.raises(UserError, match="'word': expected 'char' or 'byte'"):
    make_tokenizer('word', TEXT)


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'{"name": "char", "vocab',
    b'\xff',
    b'[]',
    b'{"name": "word"}',
    b'{"name": "char"}',
    b'{"name": "char", "vocabulary": 3}',
    b'{"name": "char", "vocabulary": "aa"}',
  ],
)
def test_damaged_file(content: bytes, tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'tokenizer.json'
  path.write_bytes(content)
  with pytest.raises(UserError) as caught:
    load_tokenizer(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_missing_file(tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match='No such file'):
    load_tokenizer(tmp_path / 'tokenizer.json')
