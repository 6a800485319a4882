"""What a checkpoint's files were when they were saved: sizes and SHA-256.

The folder of a step holds what Orbax wrote, below `default`, and its manifest,
which is written last: a step that has none was not saved to its end. Until
then a file `unfinished` lies there, so that a manifest that was lost is told
from one that never was. Steps from before there were manifests have neither;
what Orbax keeps beside `default` tells them.
"""

import dataclasses
import enum
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spectral_jax import untrusted
from spectral_jax.errors import UserError
from spectral_jax.training.workdir import write_text

ORBAX = 'default'
_MANIFEST = 'manifest.json'
_UNFINISHED = 'unfinished'


class DamagedError(UserError):
  """A step is not as it was saved; the message says what is wrong."""


class State(enum.Enum):
  """What a step's folder is."""

  GOOD = 'good'
  DAMAGED = 'damaged'
  UNCHECKED = 'no checksums'
  UNFINISHED = 'unfinished'


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What is kept beside a state.

  Attributes:
    step: of the state.
    validation_loss: in nats per token; None of a step between evaluations,
      at which a run was interrupted.
    files: the size and the SHA-256 of each file, by its path.
    pending: the metrics of the steps since the last row of the log, by name.
  """

  step: int
  validation_loss: float | None
  files: dict[str, tuple[int, str]]
  pending: Sequence[Mapping[str, float]] = ()


def begin(folder: Path) -> None:
  """Makes the folder of a step; `finish` is called when all is in it."""
  folder.mkdir()
  (folder / _UNFINISHED).touch()


def finish(
  folder: Path,
  validation_loss: float | None,
  pending: Sequence[Mapping[str, float]] = (),
) -> None:
  """Writes the manifest of what is in a step's folder."""
  content = dataclasses.asdict(
    Manifest(int(folder.name), validation_loss, _files(folder), pending)
  )
  text = json.dumps({'sha256': digest(content)} | content, indent=1)
  write_text(folder / _MANIFEST, text + '\n')
  (folder / _UNFINISHED).unlink(missing_ok=True)


def read(folder: Path) -> Manifest | None:
  """The manifest of a step; None if it has none and needs none.

  Raises:
    DamagedError: if it is lost, was changed, or is another step's.
  """
  path = folder / _MANIFEST
  if not path.exists():
    if is_unfinished(folder) or (folder / '_CHECKPOINT_METADATA').exists():
      return None
    raise DamagedError(f'{_MANIFEST} is missing')
  try:
    content = untrusted.read_json(path)
    if content.pop('sha256') != digest(content):
      raise ValueError('not what was written')
    files = {
      name: (size, sha) for name, (size, sha) in content['files'].items()
    }
    loss = content['validation_loss']
    manifest = Manifest(
      int(content['step']),
      None if loss is None else float(loss),
      files,
      [
        {name: float(value) for name, value in metrics.items()}
        for metrics in content.get('pending', ())
      ],
    )
  except (
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    OverflowError,
  ) as error:
    raise DamagedError(f'{_MANIFEST} cannot be read: {error}') from None
  if str(manifest.step) != folder.name:
    raise DamagedError(f'{_MANIFEST} is that of step {manifest.step}')
  return manifest


def discard(folder: Path) -> None:
  """Deletes a step; what a kill leaves of it is an unfinished one."""
  (folder / _UNFINISHED).touch()
  (folder / _MANIFEST).unlink(missing_ok=True)
  shutil.rmtree(folder)


def is_unfinished(folder: Path) -> bool:
  """Whether the saving of a step never came to its end."""
  if (folder / _MANIFEST).exists():
    return False
  return (folder / _UNFINISHED).exists()


def is_between_evaluations(folder: Path) -> bool:
  """Whether a step was saved, where a run was interrupted, without a loss."""
  try:
    found = read(folder)
  except DamagedError:
    return False
  return found is not None and found.validation_loss is None


def state(folder: Path) -> tuple[State, str]:
  """What a step's folder is, every file being read; and why if damaged."""
  if is_unfinished(folder):
    return State.UNFINISHED, ''
  try:
    untrusted.check_folder(folder)
    manifest = read(folder)
    if manifest is None:
      return State.UNCHECKED, ''
    _compare(folder, manifest.files)
  except (ValueError, OSError) as error:
    return State.DAMAGED, str(error)
  return State.GOOD, ''


def _compare(folder: Path, expected: dict[str, tuple[int, str]]) -> None:
  """Raises DamagedError for the first file that is not as it was."""
  sizes = {
    str(path.relative_to(folder)): path.stat().st_size
    for path in _paths(folder)
  }
  for name in sorted(expected.keys() | sizes.keys()):
    if name not in sizes:
      raise DamagedError(f'{name} is missing')
    if name not in expected:
      raise DamagedError(f'{name} is not of this checkpoint')
    if sizes[name] != expected[name][0]:
      raise DamagedError(
        f'{name} has {sizes[name]} bytes, not {expected[name][0]}'
      )
  for name, found in _files(folder).items():
    if found != expected[name]:
      raise DamagedError(f'{name} has another SHA-256')


def _paths(folder: Path) -> list[Path]:
  return sorted(p for p in (folder / ORBAX).rglob('*') if not p.is_dir())


def _files(folder: Path) -> dict[str, tuple[int, str]]:
  # Several at a time: hashing leaves the interpreter to others, and a bucket
  # answers slowly.
  paths = _paths(folder)
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(_size_and_sha256, paths))
  return {
    str(path.relative_to(folder)): each
    for path, each in zip(paths, found, strict=True)
  }


def _size_and_sha256(path: Path) -> tuple[int, str]:
  with path.open('rb') as file:
    os.fsync(file.fileno())  # what has checksums is on the disk
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return file.tell(), digest


def digest(content: dict[str, Any]) -> str:
  """The SHA-256 of a manifest's content, which it has beside that."""
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()
