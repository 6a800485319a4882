"""Corpora of documents that TensorFlow Datasets prepared, such as LM1B and C4.

They stay on disk, in a format with random access (ArrayRecord), and are read
without TensorFlow, by the files alone.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from tensorflow_datasets.core import read_only_builder

from spectral_jax.data.packing import PackedRows, packed_batches
from spectral_jax.data.pipeline import Batch, Reader
from spectral_jax.data.tokenizer import Tokenizer, make_tokenizer
from spectral_jax.errors import UserError
from spectral_jax.untrusted import read_json

# Documents that say how long documents are, to 4 % in C4.
_MEASURED = 2048
_FEATURES = 'features.json'  # of a data set, beside its examples


@contextlib.contextmanager
def _undamaged(what: str, *known: type[Exception]) -> Iterator[None]:
  """Answers what reading raises, but for the known, which mean no damage."""
  try:
    yield
  except known:
    raise
  except Exception as error:  # each damage raises a type of its own
    raise UserError(
      f'{what} is damaged ({type(error).__name__}): prepare the data set again'
    ) from error


class Documents:
  """The documents of a split, as strings by their index.

  Args:
    name: of the data set and the split.
    source: gives the examples, with bytes under 'text'.
  """

  def __init__(self, name: str, source: Sequence[Mapping[str, bytes]]):
    self._name = name
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> str:
    with _undamaged(f'document {index} of {self._name}'):
      return self._source[index]['text'].decode(errors='replace')


@functools.lru_cache(maxsize=1)
def _mean_length(documents: Documents, tokenizer: Tokenizer) -> float:
  """Tokens a document, by some of them."""
  measured = min(len(documents), _MEASURED)
  places = np.linspace(0, len(documents) - 1, measured).astype(int)
  lengths = [len(tokenizer.encode(documents[int(at)])) for at in places]
  return float(np.mean(lengths))


@functools.lru_cache(maxsize=2)
def _joined(
  documents: Documents, count: int, tokenizer: Tokenizer
) -> NDArray[np.int32]:
  """The first documents, with a separator at both ends of each."""
  separator = [tokenizer.separator]
  parts: list[Any] = [separator]
  for at in range(count):
    parts += [tokenizer.encode(documents[at]), separator]
  return np.concatenate(parts).astype(np.int32)


@functools.lru_cache(maxsize=2)
def _characters(documents: Documents, count: int) -> int:
  return sum(len(documents[at]) for at in range(count))


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentCorpus:
  """Documents in three splits.

  Attributes:
    name: of the data set, with its version.
    identity: what tells it from another: its version, and its splits' sizes.
    splits: the documents of `train`, `validation` and `test`.
    evaluated: how many documents of a split are evaluated, the first ones; 0
      for all.
  """

  name: str
  identity: Mapping[str, Any]
  splits: Mapping[str, Documents]
  evaluated: int

  def describe(self) -> str:
    """Returns its name and its size, in words."""
    return (
      f'{self.name}: {len(self.splits["train"]):,} documents to train on, '
      f'{self._count("validation"):,} to validate, {self._count("test"):,} to '
      'test'
    )

  def digest(self) -> str:
    """Returns the SHA-256 of what tells it from another, as JSON."""
    identity = json.dumps(self.identity, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()

  def make_tokenizer(self, name: str) -> Tokenizer:
    """Returns the tokenizer of a name, with a separator of documents."""
    return make_tokenizer(name, None)

  def train_batches(
    self, tokenizer: Tokenizer, reader: Reader
  ) -> Iterator[Batch]:
    """Returns batches of packed documents, in another order each epoch."""
    return packed_batches(self._rows(tokenizer, reader), reader)

  def locate(self, tokenizer: Tokenizer, reader: Reader) -> list[str]:
    """Returns where the rows of the reader's first batch are.

    Each is a row of a stretch (see `packing`), which begins with a document.
    """
    rows, order = self._rows(tokenizer, reader), self._order(reader)
    places = reader.batches(grain.MapDataset.range(len(rows)))[0]
    located = (rows.locate(int(place)) for place in places)
    return [f'document {order[first]}, row {row}' for first, row in located]

  def _order(self, reader: Reader) -> Any:
    """The documents to train on, by their number, as they are read."""
    documents = grain.MapDataset.range(len(self.splits['train']))
    return documents.seed(reader.seed).shuffle().repeat()

  def _rows(self, tokenizer: Tokenizer, reader: Reader) -> PackedRows:
    """What is trained on, of all readers."""
    assert tokenizer.separator is not None
    documents = self.splits['train']

    def encode(number: int) -> NDArray[np.int32]:
      return tokenizer.encode(documents[number])

    return PackedRows(
      self._order(reader).map(encode),
      separator=tokenizer.separator,
      context=reader.context,
      batch_size=reader.batch_size * reader.world,
      mean_length=_mean_length(documents, tokenizer),
    )

  def evaluation_tokens(
    self, split: str, tokenizer: Tokenizer
  ) -> NDArray[np.int32]:
    """Returns the documents that are evaluated, as ids of shape [length]."""
    return _joined(self.splits[split], self._count(split), tokenizer)

  def characters(self, split: str) -> int:
    """Returns the characters of the documents that are evaluated."""
    return _characters(self.splits[split], self._count(split))

  def _count(self, split: str) -> int:
    there = len(self.splits[split])
    return min(self.evaluated or there, there)


def open_documents(
  name: str, data_dir: str, *, evaluated: int = 0
) -> DocumentCorpus:
  """Opens a data set of documents that was prepared before.

  Where it has only one of the splits `validation` and `test`, the first half of
  that one is ours to validate, and the second to test.

  Args:
    name: as TensorFlow Datasets spells it: NAME[/CONFIG][:VERSION].
    data_dir: where prepared data sets are kept.
    evaluated: how many documents of a split are evaluated; 0 for all.

  Raises:
    UserError: no such data set is there, or it is none that will do.
  """
  builder = _find(name, data_dir)
  info = builder.info
  if 'text' not in info.features:
    raise UserError(
      f'{info.full_name} has no text, but {", ".join(sorted(info.features))}: '
      'name a data set of texts with --config.data.path'
    )
  held_out = info.splits.keys() & {'validation', 'test'}
  if 'train' not in info.splits or not held_out:
    raise UserError(
      f'{info.full_name} has the splits {", ".join(sorted(info.splits))}: '
      'expected train, and validation or test'
    )
  parts = {'train': 'train', 'validation': 'validation', 'test': 'test'}
  if len(held_out) == 1:
    (only,) = held_out
    parts |= {'validation': f'{only}[:50%]', 'test': f'{only}[50%:]'}
  sizes = {
    split: [entry.num_bytes, *entry.shard_lengths]
    for split, entry in info.splits.items()
  }
  return DocumentCorpus(
    info.full_name,
    {'name': info.full_name, 'splits': sizes},
    {split: _open_split(builder, part) for split, part in parts.items()},
    evaluated,
  )


def _find(name: str, data_dir: str) -> Any:
  """The data set's builder, made from what its preparation wrote."""
  if not re.fullmatch(r'\w+(/[\w.+-]+)?(:[\w.]+)?', name):
    raise UserError(
      f'no name of a data set: {name!r}; expected NAME, NAME/CONFIG or '
      'NAME/CONFIG:VERSION with --config.data.path'
    )
  known = (tfds.core.DatasetNotFoundError, UserError)
  try:
    with _undamaged(f'{name} in {data_dir}', *known):
      for path in Path(data_dir, re.split('[/:]', name)[0]).rglob(_FEATURES):
        _check_classes(read_json(path), path)
      return read_only_builder.builder_from_files(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    raise UserError(
      f'{name} is not prepared in {data_dir}: prepare it once, where there is '
      f"a network, by 'pip install tensorflow apache-beam' and 'tfds build "
      f"{name} --file_format=array_record --data_dir={data_dir}', or name its "
      'folder with --config.data.directory=FOLDER'
    ) from error


def _check_classes(features: Any, path: Path) -> None:
  """Raises UserError for a class that is none of TensorFlow Datasets' own.

  It imports the module of any class that the file names.
  """
  if isinstance(features, list):
    features = dict(enumerate(features))
  if not isinstance(features, dict):
    return
  for key, value in features.items():
    if key in ('pythonClassName', 'type') and isinstance(value, str):
      if not value.startswith('tensorflow_datasets.'):
        raise UserError(
          f'{path} names the class {value!r}, whose module would be imported: '
          'prepare the data set again, by the features of TensorFlow Datasets'
        )
    else:
      _check_classes(value, path)


def _open_split(builder: Any, part: str) -> Documents:
  info = builder.info
  if info.splits[part].num_examples == 0:
    raise UserError(
      f'{info.full_name} has no documents in {part}: name another data set '
      'with --config.data.path'
    )
  try:
    with _undamaged(f'{info.full_name}, {part}', NotImplementedError):
      source = builder.as_data_source(part)
  except NotImplementedError as error:
    raise UserError(
      f'{info.full_name} is prepared as {info.file_format.value}, which has no '
      "random access: prepare it in another folder by 'tfds build "
      "--file_format=array_record'"
    ) from error
  return Documents(f'{info.full_name}, {part}', source)
