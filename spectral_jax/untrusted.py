"""Files that anybody may have written: looked at before they are read.

JSON, text and models are data here and never code. What they say of their own
size is not believed until it is known to fit.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 26  # bytes of JSON; 64 MiB hold all that is written here


def read_bytes(path: Path, largest: int) -> bytes:
  """What a file holds.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is none, but a pipe, or larger than `largest` bytes.
  """
  with open(path, 'rb', opener=_opener) as file:
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
      raise ValueError('no regular file')
    if facts.st_size > largest:
      raise ValueError(f'more than {largest:,} bytes')
    return file.read()


def _opener(name: str, flags: int) -> int:
  # A pipe that nobody writes to would be waited for, for ever.
  return os.open(name, flags | os.O_NONBLOCK)


def read_json(path: Path, largest: int = LARGEST) -> Any:
  """What a JSON file says.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is not JSON, or too large or too deep to be ours.
  """
  return parse_json(read_bytes(path, largest))


def parse_json(data: bytes | str) -> Any:
  """What JSON says; ValueError if it is none, or nested too deeply."""
  try:
    return json.loads(data)
  except RecursionError:
    raise ValueError('nested too deeply') from None


def memory() -> int:
  """The bytes of this machine's memory."""
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def check_fits(needed: int, what: str) -> None:
  """Raises ValueError for what takes more memory than this machine has.

  Args:
    needed: bytes.
    what: takes them, for the message.
  """
  if needed > memory():
    raise ValueError(
      f'{what} would take {needed / 2**30:,.0f} GiB, of the '
      f'{memory() / 2**30:,.0f} GiB that this machine has'
    )


def check_folder(folder: Path) -> None:
  """Raises ValueError for a link out of a folder, a pipe or a device in it.

  Orbax follows links, and waits for pipes.
  """
  top = folder.resolve()
  for parent, folders, files in os.walk(top):
    for name in folders + files:
      path = Path(parent, name)
      inside = path.relative_to(top)
      mode = path.lstat().st_mode
      if stat.S_ISLNK(mode) and not path.resolve().is_relative_to(top):
        raise ValueError(
          f'{inside} is a link out of its folder; if that is meant, copy the '
          'folder by cp -rL'
        )
      if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f'{inside} is neither a file nor a folder')
