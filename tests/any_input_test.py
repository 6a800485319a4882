"""Whatever is given is read right or refused in one line; nothing else.

The examples are the same each time (see conftest.py), so that CI is.
"""

import base64
import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs import base
from spectral_jax.commands import parameter_files
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.data.text_files import read_text
from spectral_jax.data.tokenizer import ByteTokenizer, CharTokenizer
from spectral_jax.data.word_pieces import SentencePieceTokenizer
from spectral_jax.errors import UserError
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.training import manifest, workdir
from spectral_jax.training.metrics import MetricsLog
from spectral_jax.training.settings import Settings, keys
from tests.prepared import sentences, word_pieces
from tests.trainer import assert_refused, small, train

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, 2**31, 0.5])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=9)
ANY_JSON = st.recursive(
  SCALARS,
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3)
  ),
  max_leaves=8,
)
# Among them what is deeper than the interpreter goes, and what is no text.
ANY_BYTES = st.binary(max_size=60) | st.sampled_from(
  [b'[' * 10**5, b'{"a":' * 10**5, b'9' * 5000, b'\xff\xfe', b'{}', b'']
)
# With surrogates, as a terminal that is not UTF-8 may pass them on.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
RECIPE = base.get_config().to_dict()
LAYER = dataclasses.asdict(
  SpectralKernel(
    Selection.of('lowpass', (4, 4), keep=4), shape=(3, 4, 4), stack=(0,)
  )
)
MODEL = word_pieces(
  sentences(50),
  byte_fallback=True,
  normalization_rule_name='identity',
  remove_extra_whitespaces=False,
  add_dummy_prefix=False,
)
# Each example writes the same file of one folder anew.
in_a_folder = settings(
  suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(read: Callable[[], Any]) -> bool:
  """Whether a reader refuses what it is given, as it then must: in one line."""
  try:
    read()
  except UserError as error:
    lines = str(error).splitlines()
  else:
    return False
  assert len(lines) == 1
  return True


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
  """JSON with something else in one place, or with a key less or more."""
  if isinstance(value, dict) and value:
    key = draw(st.sampled_from(sorted(value)))
    match draw(st.sampled_from(['deeper', 'deeper', 'without', 'beside'])):
      case 'without':
        return {k: v for k, v in value.items() if k != key}
      case 'beside':
        return value | {draw(st.text(max_size=4)): draw(ANY_JSON)}
    return value | {key: draw(changed(value[key]))}
  if isinstance(value, list | tuple) and value:
    at = draw(st.integers(0, len(value) - 1))
    return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
  return draw(ANY_JSON)


@given(changed(RECIPE))
@example(RECIPE | {'a\nb\x1b[2J': 1})
@example(RECIPE | {'name': 'a\n'})
def test_any_recipe(recipe: Any) -> None:
  if refused(lambda: Settings.from_mapping(recipe)):
    return
  read = Settings.from_mapping(recipe)
  assert Settings.from_mapping(read.to_mapping()) == read


@settings(max_examples=300)
@given(st.sampled_from(sorted(keys())), SCALARS)
def test_any_value_of_any_key(key: str, value: Any) -> None:
  recipe = copy.deepcopy(RECIPE)
  _, *sections, last = key.split('.')
  section = recipe
  for name in sections:
    section = section[name]
  section[last] = value
  if not refused(lambda: Settings.from_mapping(recipe)):
    read = Settings.from_mapping(recipe).to_mapping()
    for name in sections:
      read = read[name]
    assert read[last] == value


WORDS = st.text(st.characters(exclude_categories=['Cs', 'Cc']), max_size=9)
FLAGS = (
  st.tuples(
    st.sampled_from(sorted(keys())), WORDS | NUMBERS.map(lambda x: f'{x:.0f}')
  ).map(lambda pair: f'--{pair[0]}={pair[1]}')
  | WORDS.map(lambda word: f'--{word}')
  | WORDS.map(lambda word: f'--config={word}')
  | st.sampled_from(['--mode=eval', '--temperature=nan', '--config.train=1'])
)


@pytest.mark.long
@settings(
  max_examples=6,
  suppress_health_check=[
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
  ],
)
@given(arguments=st.lists(FLAGS, min_size=1, max_size=2))
def test_any_command_line(
  text: Path, tmp_path: Path, arguments: list[str]
) -> None:
  workdir = tmp_path / 'run'
  # Where all else is right, there is still no text.
  result = train(*arguments, *small(tmp_path / 'none', workdir), text=text)
  assert_refused(result, '')
  assert not workdir.exists()


@given(ANY_TEXT)
def test_any_text_of_characters_and_of_bytes(text: str) -> None:
  data = text.encode(errors='surrogatepass')
  tokenizer = ByteTokenizer()
  assert tokenizer.encode(text).tolist() == list(data)
  assert tokenizer.decode(list(data)) == data.decode(errors='replace')
  if text:
    of_text = CharTokenizer.from_text(text)
    assert of_text.decode(of_text.encode(text)) == text
  if not refused(lambda: CharTokenizer('0a').encode(text)):
    assert set(text) <= {'0', 'a'}


@given(st.text(max_size=60))
def test_any_text_of_word_pieces(text: str) -> None:
  tokenizer = SentencePieceTokenizer(MODEL)
  ids = tokenizer.encode(text)
  assert tokenizer.separator not in ids
  assert tokenizer.decode(ids) == text


PLACES = st.integers(0, len(MODEL) - 1)


@given(st.dictionaries(PLACES, st.integers(0, 255), max_size=9), PLACES)
@example({MODEL.index('▁'.encode()): 0xFF}, len(MODEL))
def test_any_model_of_word_pieces(changes: dict[int, int], end: int) -> None:
  model = bytearray(MODEL)
  for place, byte in changes.items():
    model[place] = byte

  def read() -> None:
    tokenizer = SentencePieceTokenizer(bytes(model[:end]))
    tokenizer.encode('the fox Ångström')
    tokenizer.decode(np.arange(tokenizer.vocabulary_size))

  refused(read)


@given(st.lists(st.integers(-300, 600) | st.integers(), max_size=9))
def test_any_ids(ids: list[int]) -> None:
  for tokenizer in (
    CharTokenizer('ab'),
    ByteTokenizer(255),
    SentencePieceTokenizer(MODEL),
  ):
    inside = all(0 <= i < tokenizer.vocabulary_size for i in ids)
    assert refused(lambda t=tokenizer: t.decode(ids)) == (not inside)


@in_a_folder
@given(
  content=st.binary(max_size=40)
  | ANY_TEXT.map(lambda text: text.encode(errors='surrogatepass'))
)
def test_any_text_file(tmp_path: Path, content: bytes) -> None:
  path = tmp_path / 'text.txt'
  path.write_bytes(content)
  try:
    text = content.decode().removeprefix('\ufeff')
  except UnicodeDecodeError:
    text = ''
  if refused(lambda: read_text(path)):
    assert not text.strip()
  else:
    assert read_text(path) == text


@settings(max_examples=200)
@given(
  st.sampled_from(KINDS),
  st.integers(-1, 40) | st.sampled_from([2**16, 10**200]),
  st.integers(-1, 40) | st.just(2**16),
  st.integers(1, 50) | st.floats(0, 1) | SCALARS,
  st.integers(0, 9) | SCALARS,
)
def test_any_selection(kind: str, n: int, m: int, keep: Any, seed: Any) -> None:
  try:
    selection = Selection.of(kind, (n, m), keep, seed)
  except ValueError as error:
    reason = str(error)
  else:
    reason = ''
  if reason:
    assert re.match(r'(keep|shape|seed): (expected|a strided)', reason)
    return
  if n * m > 10**5:
    return
  positions = selection.positions.tolist()
  assert len(set(positions)) == selection.count == math.prod(selection.layout)
  assert 0 <= min(positions) <= max(positions) < n * m
  assert 1 <= selection.rank_bound <= min(n, m)


READERS: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
  'config': ('config.json', RECIPE, workdir.read_recipe),
  'tokenizer': (
    'tokenizer.json',
    {'name': 'char', 'vocabulary': 'ab'},
    workdir.read_tokenizer,
  ),
  'word pieces': (
    'tokenizer.json',
    {'name': 'sentencepiece', 'model': base64.b64encode(MODEL).decode()},
    workdir.read_tokenizer,
  ),
  'metrics': (
    'metrics.jsonl',
    {'step': 10, 'train_loss': 2.5},
    lambda folder: MetricsLog(folder, start_step=9, writes=False),
  ),
  'manifest': (
    '7/manifest.json',
    {'step': 7, 'validation_loss': 1.0, 'files': {'a': [3, 'b']}},
    lambda folder: manifest.read(folder / '7'),
  ),
  'rules': (
    'rules.json',
    [{'path': 'a', 'keep': 0.5, 'seed': 1, 'shape': [4, 4], 'basis': 'dct'}],
    lambda folder: parameter_files.read_rules(str(folder / 'rules.json')),
  ),
  'layers': (
    'it.layers.json',
    {'a/b': LAYER},
    lambda folder: [
      (layer.layout, layer.copies)
      for layer in parameter_files.read_layers(folder / 'it').values()
    ],
  ),
}


def _write(folder: Path, reader: str, content: Any) -> None:
  path = folder / READERS[reader][0]
  path.parent.mkdir(exist_ok=True)
  if not isinstance(content, bytes):
    if reader == 'manifest' and isinstance(content, dict):
      content = {'sha256': manifest.digest(content)} | content
    content = json.dumps(content).encode() + b'\n'
  path.write_bytes(content)


@pytest.mark.parametrize('reader', READERS)
def test_what_is_right_is_read(reader: str, tmp_path: Path) -> None:
  _, right, read = READERS[reader]
  _write(tmp_path, reader, right)
  assert not refused(lambda: read(tmp_path))


@pytest.mark.parametrize('reader', READERS)
@in_a_folder
@given(data=st.data())
def test_any_json(reader: str, tmp_path: Path, data: st.DataObject) -> None:
  _, right, read = READERS[reader]
  content = data.draw(changed(right) | ANY_JSON | ANY_BYTES)
  _write(tmp_path, reader, content)
  refused(lambda: read(tmp_path))
