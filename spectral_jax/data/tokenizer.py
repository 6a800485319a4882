"""Characters, bytes or pieces of words as tokens."""

import base64
import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_jax.data.word_pieces import SentencePieceTokenizer
from spectral_jax.errors import UserError
from spectral_jax.untrusted import read_bytes, read_json

_NO_UTF8 = 0xFF  # a byte that stands nowhere in UTF-8
_LARGEST_MODEL = 1 << 25  # bytes; those of 256,000 pieces are 4 MB


class Tokenizer(Protocol):
  """Turns text into token ids and back; equal ones do the same."""

  def __hash__(self) -> int:
    """As equal ones have it."""

  @property
  def name(self) -> str:
    """The kind, as `make_tokenizer` takes it."""

  @property
  def vocabulary_size(self) -> int:
    """Ids are 0 … vocabulary_size − 1."""

  @property
  def separator(self) -> int | None:
    """The id between two documents, where there is one."""

  def encode(self, text: str) -> NDArray[np.int32]:
    """Returns the text's ids, of shape [length]; never the separator."""

  def decode(self, ids: ArrayLike) -> str:
    """Returns the text of ids of shape [length]."""


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
  """One token a character.

  Attributes:
    vocabulary: the distinct characters in the order of their ids.

  >>> tokenizer = CharTokenizer.from_text('to be or not to be')
  >>> tokenizer.vocabulary
  ' benort'
  >>> tokenizer.encode('been')
  array([1, 2, 2, 3], dtype=int32)
  >>> tokenizer.decode([5, 4, 1, 2])
  'robe'
  """

  vocabulary: str
  name: ClassVar[str] = 'char'
  separator: ClassVar[None] = None

  def __post_init__(self) -> None:
    if len(set(self.vocabulary)) != len(self.vocabulary) or not self.vocabulary:
      raise UserError(
        'a vocabulary must be distinct characters and at least one, got '
        f'{self.vocabulary!r}'
      )

  @classmethod
  def from_text(cls, text: str) -> 'CharTokenizer':
    """Returns the tokenizer of the text's characters, sorted."""
    return cls(''.join(sorted(set(text))))

  @property
  def vocabulary_size(self) -> int:
    """Ids are 0 … vocabulary_size − 1."""
    return len(self.vocabulary)

  @functools.cached_property
  def _ids(self) -> NDArray[np.int32]:
    """The id of every code point there is, −1 where it has none."""
    ids = np.full(sys.maxunicode + 1, -1, np.int32)
    ids[_code_points(self.vocabulary)] = np.arange(self.vocabulary_size)
    return ids

  def encode(self, text: str) -> NDArray[np.int32]:
    """Returns the text's ids, of shape [length].

    Raises:
      UserError: a character is not in the vocabulary.
    """
    ids = self._ids[_code_points(text)]
    if ids.size and ids.min() < 0:
      at = int(ids.argmin())
      line = text.count('\n', 0, at) + 1
      column = at - text.rfind('\n', 0, at)
      raise UserError(
        f'character {text[at]!r} (U+{ord(text[at]):04X}) at line {line}, '
        f'column {column} is not in the vocabulary of {self.vocabulary_size} '
        'characters: remove it, or use the byte tokenizer'
      )
    return ids

  def decode(self, ids: ArrayLike) -> str:
    """Returns the text of ids of shape [length]."""
    ids = _checked(ids, self.vocabulary_size)
    code_points = _code_points(self.vocabulary)[ids]
    return code_points.tobytes().decode('utf-32-le', 'surrogatepass')


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
  """One token a byte of the UTF-8 text: any text has its ids.

  Attributes:
    separator: 255, a byte that no UTF-8 text has, where there are documents to
      be kept apart.

  >>> ByteTokenizer().encode('né')
  array([110, 195, 169], dtype=int32)
  """

  separator: int | None = None
  name: ClassVar[str] = 'byte'
  vocabulary_size: ClassVar[int] = 256

  def __post_init__(self) -> None:
    if self.separator not in (None, _NO_UTF8):
      raise UserError(
        f'a separator of bytes must be {_NO_UTF8}, got {self.separator!r}'
      )

  def encode(self, text: str) -> NDArray[np.int32]:
    """Returns the text's bytes, of shape [bytes]."""
    data = text.encode(errors='surrogatepass')
    return np.frombuffer(data, np.uint8).astype(np.int32)

  def decode(self, ids: ArrayLike) -> str:
    """Returns the text of bytes of shape [bytes].

    Bytes that are not UTF-8, as a model may write, become U+FFFD; the separator
    ends a line.
    """
    data = _checked(ids, self.vocabulary_size).astype(np.uint8).tobytes()
    if self.separator is not None:
      data = data.replace(bytes([self.separator]), b'\n')
    return data.decode(errors='replace')


def make_tokenizer(name: str, text: str | None) -> Tokenizer:
  """Returns the tokenizer of a corpus.

  Args:
    name: 'char', 'byte', or a file NAME.model of SentencePiece.
    text: the corpus, or None where it is one of documents.

  Raises:
    UserError: the name is unknown, the model cannot be read, or the characters
      of documents are asked for.
  """
  if name == CharTokenizer.name:
    if text is None:
      raise UserError(
        'tokenizer char would have to read all documents first: use byte, or a '
        'SentencePiece model'
      )
    return CharTokenizer.from_text(text)
  if name == ByteTokenizer.name:
    return ByteTokenizer() if text is not None else ByteTokenizer(_NO_UTF8)
  path = pathlib.Path(name).expanduser()
  if path.suffix != '.model':
    raise UserError(
      f"unknown tokenizer {name!r}: expected 'char', 'byte', or the file "
      'NAME.model of a SentencePiece model'
    )
  try:
    return SentencePieceTokenizer(read_bytes(path, _LARGEST_MODEL))
  except OSError as error:
    raise UserError(
      f'cannot read the SentencePiece model {path} ({error.strerror}): give '
      'its file with --config.data.tokenizer=FILE'
    ) from error
  except ValueError as error:
    raise UserError(f'{path}: {error}') from error


def tokenizer_fields(tokenizer: Tokenizer) -> dict[str, Any]:
  """The tokenizer as JSON has it, for `read_tokenizer`."""
  fields: dict[str, Any] = {'name': tokenizer.name}
  match tokenizer:
    case CharTokenizer():
      fields['vocabulary'] = tokenizer.vocabulary
    case ByteTokenizer(separator=int()):
      fields['separator'] = tokenizer.separator
    case SentencePieceTokenizer():
      fields['model'] = base64.b64encode(tokenizer.model).decode()
  return fields


def read_tokenizer(fields: Any) -> Tokenizer:
  """Reads what `tokenizer_fields` gave.

  Raises:
    UserError: it is damaged, or of an unknown kind.
  """
  try:
    match fields:
      case {'name': CharTokenizer.name, 'vocabulary': str(vocabulary)}:
        return CharTokenizer(vocabulary)
      case {'name': ByteTokenizer.name}:
        return ByteTokenizer(fields.get('separator'))
      case {'name': SentencePieceTokenizer.name, 'model': str(model)}:
        return SentencePieceTokenizer(base64.b64decode(model))
  except ValueError as error:
    raise UserError(str(error)) from error
  raise UserError('holds no tokenizer that is known: restore the file')


def save_tokenizer(tokenizer: Tokenizer, path: str | pathlib.Path) -> None:
  """Writes the tokenizer as JSON, for `load_tokenizer`."""
  text = json.dumps(tokenizer_fields(tokenizer)) + '\n'
  pathlib.Path(path).write_text(text, encoding='utf-8')


def load_tokenizer(path: str | pathlib.Path) -> Tokenizer:
  """Reads what `save_tokenizer` wrote.

  Raises:
    UserError: the file is missing, unreadable, damaged or of an unknown kind.
  """
  try:
    fields = read_json(pathlib.Path(path))
  except OSError as error:
    raise UserError(
      f'cannot read the tokenizer {path} ({error.strerror}): restore the file'
    ) from error
  except ValueError as error:
    raise UserError(
      f'{path} is not JSON ({error}): restore the file'
    ) from error
  try:
    return read_tokenizer(fields)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error


def _code_points(text: str) -> NDArray[np.uint32]:
  data = text.encode('utf-32-le', 'surrogatepass')
  return np.frombuffer(data, np.dtype('<u4'))


def _checked(ids: ArrayLike, size: int) -> NDArray[np.int32]:
  """Returns the ids as an array of whole numbers within 0 … size − 1."""
  checked = np.asarray(ids)
  outside = (checked < 0) | (checked >= size)
  if outside.any():
    raise UserError(
      f'expected token ids of 0 to {size - 1}, got {checked[outside][0]}'
    )
  return checked.astype(np.int32)
