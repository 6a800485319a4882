"""Text as it comes, against the text of all tokens at once."""

import random

import numpy as np
import pytest

from spectral_jax.data.text_stream import TextStream
from spectral_jax.data.tokenizer import (
  ByteTokenizer,
  CharTokenizer,
  Tokenizer,
)
from spectral_jax.data.word_pieces import SentencePieceTokenizer
from tests.prepared import sentences, word_pieces

TEXT = 'the quick brown Ångström – 日本 🦊 jumps over  a lazy dog'


@pytest.fixture(scope='module')
def pieces() -> SentencePieceTokenizer:
  # Letters that it has not seen are bytes to it.
  return SentencePieceTokenizer(word_pieces(sentences(100), byte_fallback=True))


@pytest.fixture(params=['char', 'byte', 'pieces'])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
  if request.param == 'pieces':
    return request.getfixturevalue('pieces')
  return {'char': CharTokenizer.from_text(TEXT), 'byte': ByteTokenizer(255)}[
    request.param
  ]


@pytest.mark.parametrize('size', [1, 2, 3, 16])
def test_portions_add_up_and_show_no_broken_character(
  tokenizer: Tokenizer, size: int
) -> None:
  prompt, rest = tokenizer.encode(TEXT[:9]), tokenizer.encode(TEXT[9:])
  stream = TextStream(tokenizer, prompt)
  portions = [
    stream.push(rest[start : start + size])
    for start in range(0, len(rest), size)
  ]
  assert not any('\ufffd' in portion for portion in portions)
  text = tokenizer.decode(prompt) + ''.join(portions) + stream.close()
  assert text == tokenizer.decode(np.concatenate([prompt, rest]))


@pytest.mark.parametrize('seed', range(3))
def test_any_tokens_read_as_they_do_at_once(
  tokenizer: Tokenizer, seed: int
) -> None:
  """Models write anything: bytes that are no UTF-8, separators, lone spaces."""
  draw = np.random.default_rng(seed)
  ids = draw.integers(tokenizer.vocabulary_size, size=300).astype(np.int32)
  if isinstance(tokenizer, SentencePieceTokenizer):
    ids[draw.integers(300, size=9)] = tokenizer.separator
  stream, text = TextStream(tokenizer), ''
  for portion in np.split(ids, sorted(draw.integers(300, size=60))):
    text += stream.push(portion)
    if stream._ids.size < 20:
      assert tokenizer.decode(ids).startswith(text)
  assert text + stream.close() == tokenizer.decode(ids)


def test_a_character_that_stays_broken_is_shown_at_the_end() -> None:
  stream = TextStream(ByteTokenizer())
  assert stream.push(list('né'.encode()[:2])) == 'n'
  assert stream.close() == '\ufffd'
  assert stream.close() == ''


@pytest.mark.parametrize('size', [1, 2, 5, 40])
def test_a_stop_string_ends_the_text_wherever_tokens_end(size: int) -> None:
  tokenizer = CharTokenizer.from_text('ab\n')
  draw = random.Random(size)
  for _ in range(50):
    text = ''.join(draw.choices('ab\n', weights=[4, 4, 1], k=40))
    stop = draw.choice(['\n\n', 'aab', 'aa', 'abab', 'b\na', 'a'])
    ids = tokenizer.encode(text)
    stream, shown = TextStream(tokenizer, stop=stop), ''
    for start in range(0, len(ids), size):
      shown += stream.push(ids[start : start + size])
      assert text.partition(stop)[0].startswith(shown)
      assert stream.ended == (stop in text[: start + size])
    assert shown + stream.close() == text.partition(stop)[0]


def test_the_prompt_does_not_count_for_the_stop_string() -> None:
  tokenizer = ByteTokenizer()
  stream = TextStream(tokenizer, tokenizer.encode('to be or'), stop='be or')
  assert stream.push(tokenizer.encode(' not to be')) == ' not to '
  assert stream.push(tokenizer.encode('at')) == 'beat'
