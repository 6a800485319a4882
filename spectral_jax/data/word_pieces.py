"""Pieces of words as tokens, by a SentencePiece model."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
  """The pieces of a SentencePiece model; its end of sentence separates.

  Attributes:
    model: what the model's file holds.
  """

  model: bytes = dataclasses.field(repr=False)
  name: ClassVar[str] = 'sentencepiece'

  def __post_init__(self) -> None:
    if self._processor.eos_id() < 0:
      raise UserError(
        'the SentencePiece model has no end of sentence, which separates '
        'documents: train it without --eos_id=-1'
      )

  @functools.cached_property
  def _processor(self) -> Any:
    try:
      # Here, because only such a model needs the package.
      import sentencepiece
    except ImportError as error:
      raise UserError(
        'a SentencePiece model needs the package sentencepiece, which is not '
        "installed: pip install 'sentencepiece~=0.2.3'"
      ) from error
    try:
      if not self.model:  # it would take this, and fail at the first text
        raise RuntimeError('empty')
      return sentencepiece.SentencePieceProcessor(model_proto=self.model)
    except RuntimeError as error:
      raise UserError(
        'no SentencePiece model: give the file NAME.model that spm_train wrote'
      ) from error

  @property
  def vocabulary_size(self) -> int:
    """Ids are 0 … vocabulary_size − 1."""
    return int(self._processor.vocab_size())

  @property
  def separator(self) -> int:
    """The model's end of sentence."""
    return int(self._processor.eos_id())

  def encode(self, text: str) -> NDArray[np.int32]:
    """Returns the ids of the text's pieces, of shape [length]."""
    # As bytes: a lone surrogate is no string to it.
    data = text.encode(errors='surrogatepass')
    return np.asarray(self._processor.encode(data), np.int32)

  def decode(self, ids: ArrayLike) -> str:
    """Returns the text of ids of shape [length]; the separator ends a line."""
    ids = np.asarray(ids)
    if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary_size):
      raise UserError(
        f'expected token ids of 0 to {self.vocabulary_size - 1}, got '
        f'{ids.min()} to {ids.max()}'
      )
    ids = ids.astype(np.int32)
    ends = np.flatnonzero(ids == self.separator)
    # As bytes, for the pieces of a model need not be UTF-8.
    parts = (
      self._processor.decode(part.tolist(), return_type=bytes)
      for part in np.split(ids, ends)
    )
    return b'\n'.join(parts).decode(errors='replace')
