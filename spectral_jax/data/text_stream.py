"""Text from tokens as they come, as far as it will stay what it is."""

import numpy as np
from numpy.typing import ArrayLike

from spectral_jax.data.tokenizer import Tokenizer

# Stands for bytes that are no UTF-8, or not yet.
_INCOMPLETE = '\ufffd'
# Tokens before new ones that decide how these read, as a space between words.
_BEFORE = 8


class TextStream:
  """Decodes tokens portion by portion, up to a stop string.

  What is returned is never taken back: the bytes of a character are held until
  it is whole, and what may be the beginning of the stop string until it is not.

  Args:
    tokenizer: of the tokens.
    before: tokens that went before, whose text is not returned.
    stop: ends the text where it first occurs, also across tokens; None for
      none.

  Attributes:
    ended: whether the stop string has come; it is not returned.

  Example:
    >>> from spectral_jax.data.tokenizer import ByteTokenizer
    >>> text = TextStream(ByteTokenizer(), stop='end')
    >>> [text.push([byte]) for byte in 'né'.encode()]
    ['n', '', 'é']
    >>> text.push(list(b' then end.')), text.ended
    (' then ', True)
  """

  def __init__(
    self, tokenizer: Tokenizer, before: ArrayLike = (), stop: str | None = None
  ) -> None:
    self._tokenizer = tokenizer
    self._stop = stop or ''
    self._ids = np.asarray(before, np.int32)[-_BEFORE:]
    self._read = len(tokenizer.decode(self._ids))
    self._held = ''
    self.ended = False

  def push(self, ids: ArrayLike) -> str:
    """The text that tokens [length] add, which may be of earlier ones."""
    if self.ended:
      return ''
    self._ids = np.concatenate([self._ids, np.asarray(ids, np.int32)])
    text = self._tokenizer.decode(self._ids)
    whole = text.rstrip(_INCOMPLETE)
    new = whole[self._read :]
    self._read = max(self._read, len(whole))
    if whole == text:
      self._ids = self._ids[-_BEFORE:]
      self._read = len(self._tokenizer.decode(self._ids))
    return self._until_stop(new)

  def close(self) -> str:
    """What was held: after it nothing comes."""
    if self.ended:
      return ''
    rest = self._tokenizer.decode(self._ids)[self._read :]
    shown = self._until_stop(rest)
    if self.ended:
      return shown
    self.ended = True
    return shown + self._held

  def _until_stop(self, new: str) -> str:
    text = self._held + new
    self._held = ''
    if not self._stop:
      return text
    shown, found, _ = text.partition(self._stop)
    if found:
      self.ended = True
      return shown
    longest = min(len(self._stop) - 1, len(text))
    for size in range(longest, 0, -1):
      if self._stop.startswith(text[-size:]):
        self._held = text[-size:]
        return text[:-size]
    return text
