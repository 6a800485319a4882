"""A byte-level corpus that any machine has: the sources of its Python."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from spectral_jax.training.workdir import write_text

_BYTES = 24_000_000


def build(path: Path) -> None:
  """Writes the sources of the standard library and of the installed packages.

  Each file comes after a line `# FILE: name`, in the order of the names, and
  without those that are not UTF-8. Tests are left out, for they would fill the
  24 MB that are taken. Two machines with other packages get other texts; a
  file that is there already is kept.
  """
  if path.exists():
    return
  parts, left = [], _BYTES
  for part in _files():
    left -= len(part.encode())
    if left < 0:
      break
    parts.append(part)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, ''.join(parts))


def _files() -> Iterator[str]:
  for key in ('stdlib', 'purelib'):
    root = Path(sysconfig.get_path(key))
    for path in sorted(root.rglob('*.py')):
      name = path.relative_to(root)
      # Outside a virtual environment the packages lie within the library.
      if {'test', 'tests', 'site-packages'} & set(name.parts):
        continue
      try:
        yield f'# FILE: {name.as_posix()}\n{path.read_bytes().decode()}\n'
      except (OSError, UnicodeDecodeError):
        continue
