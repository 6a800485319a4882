"""Files that cannot be written for a while, which is no reason to stop."""

import contextlib
import os
import re
from collections.abc import Iterator

import jax
from absl import logging

from spectral_jax.errors import UserError, first_line
from spectral_jax.training import console


class Outages:
  """Tells of each file once that it cannot be written, and once that it can."""

  def __init__(self) -> None:
    self._out: set[str] = set()

  @contextlib.contextmanager
  def borne(self, name: str) -> Iterator[None]:
    """What is within it writes a file, which may fail with an OSError."""
    try:
      yield
    except OSError as error:
      if name not in self._out:
        console.tell(
          f'{name}: cannot be written ({_reason(error)}); training goes on, '
          'and what is missing is written when it can be',
        )
      self._out.add(name)
      return
    if name in self._out:
      console.tell(f'{name}: complete again')
      self._out.remove(name)


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
  """Raises what Orbax raises for want of a disk as UserError, and in silence.

  The loss of a device or of another process stays what it is.
  """
  verbosity = logging.get_verbosity()
  try:
    if verbosity < logging.INFO:
      logging.set_verbosity(logging.FATAL)  # it logs what it raises
    yield
  except (UserError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:  # of many kinds
    raise UserError(_reason(error)) from error
  finally:
    logging.set_verbosity(verbosity)


def _reason(error: Exception) -> str:
  """Why writing failed, in a few words: TensorStore makes it thousands."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if code := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(code[1]))
  return first_line(error)
