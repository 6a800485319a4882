"""What training asks of a corpus, and the answers of a text in memory."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spectral_jax.data import pipeline
from spectral_jax.data.pipeline import Batch, Reader
from spectral_jax.data.tokenizer import Tokenizer, make_tokenizer


@functools.lru_cache(maxsize=2)
def _encoded(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
  """The ids of a text, which several readers of a process share."""
  ids = tokenizer.encode(text)
  ids.setflags(write=False)
  return ids


class Corpus(Protocol):
  """Something to train on, with splits `train`, `validation` and `test`."""

  def describe(self) -> str:
    """Returns its name and its size, in words."""

  def digest(self) -> str:
    """Returns a SHA-256 that another corpus does not have."""

  def make_tokenizer(self, name: str) -> Tokenizer:
    """Returns the tokenizer of a name that `make_tokenizer` knows."""

  def train_batches(
    self, tokenizer: Tokenizer, reader: Reader
  ) -> Iterator[Batch]:
    """Returns the batches to train on, as `pipeline.train_batches` does."""

  def locate(self, tokenizer: Tokenizer, reader: Reader) -> list[str]:
    """Returns where in `train` each row of the reader's first batch is."""

  def evaluation_tokens(
    self, split: str, tokenizer: Tokenizer
  ) -> NDArray[np.int32]:
    """Returns what is evaluated of a split, as ids of shape [length]."""

  def characters(self, split: str) -> int:
    """Returns the characters of what is evaluated of a split."""


@dataclasses.dataclass(frozen=True)
class TextCorpus:
  """A text in three consecutive parts.

  Attributes:
    name: one of 'shakespeare_plays', 'tiny_shakespeare', 'text'.
    train: the first 90 % of the characters.
    validation: the next 5 %.
    test: the last 5 %.
  """

  name: str
  train: str
  validation: str
  test: str

  @property
  def text(self) -> str:
    """The whole text: the three parts joined."""
    return self.train + self.validation + self.test

  def describe(self) -> str:
    """Returns its name and its size, in words."""
    return (
      f'{self.name}: {len(self.train):,} characters to train on, '
      f'{len(self.validation):,} to validate, {len(self.test):,} to test'
    )

  def digest(self) -> str:
    """Returns the SHA-256 of the whole text."""
    return hashlib.sha256(self.text.encode()).hexdigest()

  def make_tokenizer(self, name: str) -> Tokenizer:
    """Returns the tokenizer of a name, of these characters if it is 'char'."""
    return make_tokenizer(name, self.text)

  def train_batches(
    self, tokenizer: Tokenizer, reader: Reader
  ) -> Iterator[Batch]:
    """Returns the batches of `pipeline.train_batches`: windows of the text."""
    return pipeline.train_batches(_encoded(tokenizer, self.train), reader)

  def locate(self, tokenizer: Tokenizer, reader: Reader) -> list[str]:
    """Returns the first token of each window of the reader's first batch."""
    starts = pipeline.window_starts(
      len(_encoded(tokenizer, self.train)), reader
    )
    return [f'token {start}' for start in reader.batches(starts)[0]]

  def evaluation_tokens(
    self, split: str, tokenizer: Tokenizer
  ) -> NDArray[np.int32]:
    """Returns the whole split, as ids of shape [length]."""
    return tokenizer.encode(getattr(self, split))

  def characters(self, split: str) -> int:
    """Returns the characters of a split."""
    return len(getattr(self, split))
