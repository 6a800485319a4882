"""Tokenizers: round trips, refusals, and what is saved."""

import pathlib
import sys

import numpy as np
import pytest

from spectral_jax.data import word_pieces as word_pieces_module
from spectral_jax.data.tokenizer import (
  ByteTokenizer,
  CharTokenizer,
  Tokenizer,
  load_tokenizer,
  make_tokenizer,
  save_tokenizer,
)
from spectral_jax.errors import UserError
from tests.prepared import sentences, word_pieces

TEXT = f'Ça va ?\r\n\tNaïve – 日本 🎭{chr(sys.maxunicode)}\0\n'


def _pieces(path: pathlib.Path) -> str:
  """The name of a SentencePiece tokenizer that keeps any text as it is."""
  path /= 'words.model'
  path.write_bytes(
    word_pieces(
      sentences(50),
      byte_fallback=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
    )
  )
  return str(path)


@pytest.mark.parametrize('documents', [False, True])
@pytest.mark.parametrize('name', ['char', 'byte', 'sentencepiece'])
def test_round_trip(name: str, documents: bool, tmp_path: pathlib.Path) -> None:
  if name == 'char' and documents:
    return
  argument = _pieces(tmp_path) if name == 'sentencepiece' else name
  made = make_tokenizer(argument, None if documents else TEXT)
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
    assert tokenizer.separator == loaded.separator
    if documents:
      assert tokenizer.separator not in ids
      assert tokenizer.separator < tokenizer.vocabulary_size
      two = [*ids, tokenizer.separator, *tokenizer.encode('second')]
      assert tokenizer.decode(two) == f'{TEXT}\nsecond'
  assert hash(loaded) == hash(made)


def test_a_text_of_bytes_has_no_separator(tmp_path: pathlib.Path) -> None:
  assert make_tokenizer('byte', TEXT).separator is None
  assert make_tokenizer('byte', TEXT) != make_tokenizer('byte', None)
  save_tokenizer(make_tokenizer('byte', TEXT), tmp_path / 'tokenizer.json')
  kept = (tmp_path / 'tokenizer.json').read_text()
  assert kept == '{"name": "byte"}\n'  # as it always was


def test_word_pieces(tmp_path: pathlib.Path) -> None:
  made = make_tokenizer(_pieces(tmp_path), None)
  assert len(made.encode('the quick brown fox')) < 19 / 2
  assert 'model' not in repr(made)
  assert made.encode('\udce9').dtype == np.int32
  with pytest.raises(UserError, match=f'got 0 to {made.vocabulary_size}'):
    made.decode([0, made.vocabulary_size])


def test_a_model_of_word_pieces_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'words.model'

  def refusal() -> str:
    with pytest.raises(UserError, match=str(path)) as caught:
      make_tokenizer(str(path), None)
    assert '\n' not in str(caught.value)
    return str(caught.value)

  assert 'No such file' in refusal()
  for content in (b'', b'the quick brown fox', b'\0' * 100):
    path.write_bytes(content)
    assert 'no SentencePiece model' in refusal()
  path.write_bytes(word_pieces(sentences(50), eos_id=-1))
  assert 'train it without --eos_id=-1' in refusal()
  path.write_bytes(word_pieces(sentences(50)))
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  assert "pip install 'sentencepiece" in refusal()


def test_the_package_is_named_as_it_is_pinned() -> None:
  module = pathlib.Path(word_pieces_module.__file__).read_text()
  root = pathlib.Path(__file__).parents[2]
  pins = (root / 'requirements.txt').read_text().splitlines()
  (pin,) = [line for line in pins if line.startswith('sentencepiece')]
  assert f"pip install '{pin}'" in module


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
  with pytest.raises(UserError, match="'word': expected 'char', 'byte', or"):
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
    b'{"name": "byte", "separator": 7}',
    b'{"name": "sentencepiece"}',
    b'{"name": "sentencepiece", "model": "x"}',
    b'{"name": "sentencepiece", "model": "AAAA"}',
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
