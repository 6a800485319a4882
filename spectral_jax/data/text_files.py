"""Text of the user's: a file of UTF-8, or a folder of such files."""

import os
from pathlib import Path
from typing import NoReturn

from spectral_jax.errors import UserError
from spectral_jax.untrusted import memory, read_bytes


def read_text(path: Path) -> str:
  """Reads a file, or the files of a folder with a line end in between.

  Raises:
    UserError: if it cannot be read, is no UTF-8, or empty.
  """
  files = [path]
  try:
    is_folder = path.is_dir()
  except OSError as error:
    _refuse(error)
  if is_folder:
    files = sorted(
      Path(folder, name)
      for folder, _, names in os.walk(path, onerror=_refuse)
      for name in names
    )
    files = [
      file
      for file in files
      if file.is_file()
      and not any(part[0] == '.' for part in file.relative_to(path).parts)
    ]
  text = '\n'.join(read_file(file) for file in files)
  if not text.strip():
    raise UserError(f'{path} is empty: give a file or folder that holds text')
  return text


def read_file(path: Path) -> str:
  """Reads UTF-8 as it stands: line ends are kept, a byte order mark is not.

  Raises:
    UserError: if it cannot be read, or is no UTF-8.
  """
  try:
    return read_bytes(path, memory()).decode().removeprefix('\ufeff')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is not UTF-8 (byte {error.start}): convert it, or leave it out'
    ) from error
  except OSError as error:
    _refuse(error)
  except ValueError as error:
    raise UserError(
      f'cannot read {path} ({error}): give a file or folder of text'
    ) from error


def _refuse(error: OSError) -> NoReturn:
  raise UserError(
    f'cannot read {error.filename} ({error.strerror}): give a file or folder '
    'that can be read'
  ) from error
