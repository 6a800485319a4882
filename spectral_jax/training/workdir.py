"""What a run keeps beside its checkpoints: its recipe and its tokenizer.

A workdir belongs to one recipe. Everything in it is plain text or Orbax's.
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

from flax import traverse_util

from spectral_jax import untrusted
from spectral_jax.data.tokenizer import (
  Tokenizer,
  load_tokenizer,
  save_tokenizer,
)
from spectral_jax.errors import UserError
from spectral_jax.training.settings import Settings

_CONFIG = 'config.json'
_DATA = 'data.json'
_TOKENIZER = 'tokenizer.json'
_DAMAGED = 'damaged'  # among the checkpoints
# Keys that change where and how a run is computed and scored, not what; and
# those that count only once a step is bad.
FREE = (
  'config.mesh.',
  'config.data.path',
  'config.data.directory',
  'config.data.evaluation_documents',
  'config.train.on_nonfinite',
  'config.train.spike_factor',
)


def flatten(recipe: dict[str, Any]) -> dict[str, Any]:
  """A nested recipe as one mapping, by the names of train.py's flags."""
  flat: dict[str, Any] = traverse_util.flatten_dict({'config': recipe}, sep='.')
  return flat


def differences(there: dict[str, Any], wanted: dict[str, Any]) -> str:
  """How a run's flattened recipe is not the wanted one; empty if it is."""
  return '; '.join(
    f'{key} is {there.get(key)!r} there, {wanted.get(key)!r} here'
    for key in sorted(there.keys() | wanted.keys())
    if there.get(key) != wanted.get(key) and not key.startswith(FREE)
  )


def write_text(path: Path, text: str) -> None:
  """Writes a file at once or not at all, however the process ends."""
  temporary = path.with_name(path.name + '.tmp')
  with temporary.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def json_line(value: Any) -> str:
  """A line of JSON, which has no word for NaN and infinity: `float` reads them.

  They are written as the strings 'nan', 'inf' and '-inf'.
  """

  def plain(value: Any) -> Any:
    if isinstance(value, dict):
      return {key: plain(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
      return str(value)
    return value

  return json.dumps(plain(value), allow_nan=False) + '\n'


def read_recipe(workdir: Path) -> dict[str, Any]:
  """The recipe of the run in a workdir.

  Raises:
    UserError: if there is none, or it is damaged.
  """
  path = workdir / _CONFIG
  if not path.is_file():
    raise UserError(
      f'--workdir: no run in {workdir}; train one first with --mode=train.'
    )
  return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
  """The JSON object in a file of a workdir.

  Raises:
    UserError: if there is none.
  """
  try:
    content = untrusted.read_json(path)
  except (OSError, ValueError) as error:
    raise UserError(f'{path}: cannot be read ({error}); restore it.') from None
  if not isinstance(content, dict):
    raise UserError(f'{path}: expected a JSON object; restore it.')
  return content


def checkpoints(workdir: Path) -> Path:
  """The folder of a workdir's checkpoints, one subfolder a step."""
  return workdir.absolute() / 'checkpoints'


def step_folders(checkpoints: Path) -> list[Path]:
  """The folders of steps, whatever their state, in the order of these."""
  folders = [
    folder
    for folder in checkpoints.glob('[0-9]*')
    if folder.name.isdecimal() and folder.is_dir()
  ]
  return sorted(folders, key=lambda folder: int(folder.name))


def set_aside(folder: Path) -> Path:
  """Moves a damaged step to where it is in nobody's way; returns where."""
  damaged = folder.parent / _DAMAGED
  damaged.mkdir(exist_ok=True)
  names = itertools.chain(
    [folder.name], (f'{folder.name}.{n}' for n in itertools.count(2))
  )
  aside = next(
    damaged / name for name in names if not (damaged / name).exists()
  )
  return folder.rename(aside)


def steps_aside(checkpoints: Path) -> list[Path]:
  """The damaged steps that were set aside."""
  return sorted((checkpoints / _DAMAGED).glob('*'))


def holds_run(workdir: Path) -> bool:
  """Whether there is a checkpoint that another recipe could spoil."""
  folder = checkpoints(workdir)
  return bool(step_folders(folder) or steps_aside(folder))


def make(workdir: Path) -> None:
  """Makes a workdir, if it is not there.

  Raises:
    UserError: if it is no folder, or not writable.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise UserError(
      f'--workdir: {workdir} is, or lies below, a file; name a folder.'
    ) from None
  except OSError as error:
    raise UserError(
      f'--workdir: cannot make {workdir}: {error.strerror}; name another.'
    ) from None
  if not os.access(workdir, os.W_OK | os.X_OK):
    raise UserError(
      f'--workdir: {workdir} is not writable; name another or change its mode.'
    )


def claim(
  workdir: Path, settings: Settings, digest: str, tokenizer: Tokenizer
) -> None:
  """Makes the workdir, or checks that it is of this recipe and its data.

  Args:
    workdir: the folder.
    settings: the recipe.
    digest: of the corpus.
    tokenizer: made for the corpus.

  Raises:
    UserError: if it is no folder, not writable, or holds a run of another
      recipe (the differing keys are named), on another text or by another
      tokenizer.
  """
  make(workdir)
  steps = checkpoints(workdir)
  if steps.exists() and not steps.is_dir():
    raise UserError(f'--workdir: {steps} is a file; move it or name another.')
  if holds_run(workdir):
    check_recipe(workdir, settings)
    check_data(workdir, digest)
    if read_tokenizer(workdir) != tokenizer:
      raise UserError(
        f'--workdir: the run in {workdir} has another tokenizer (kept in '
        f'{workdir / _TOKENIZER}) than config.data.tokenizer makes; give the '
        'file that it was made from or name another workdir.'
      )
    return
  try:
    save_tokenizer(tokenizer, workdir / _TOKENIZER)
    for name, content in (
      (_DATA, {'sha256': digest}),
      (_CONFIG, settings.to_mapping()),
    ):
      write_text(workdir / name, json.dumps(content, indent=2) + '\n')
  except OSError as error:
    raise UserError(
      f'--workdir: cannot write in {workdir}: {error.strerror}; name another.'
    ) from None


def check_shared(workdir: Path, settings: Settings, digest: str) -> None:
  """Raises UserError unless another process has claimed this same workdir."""
  if not (workdir / _CONFIG).is_file():
    raise UserError(
      f'--workdir: what process 0 wrote is not in {workdir.absolute()} here; '
      'name a folder that all processes share.'
    )
  check_recipe(workdir, settings)
  check_data(workdir, digest)


def check_recipe(workdir: Path, settings: Settings) -> None:
  """Raises UserError if the run in the workdir is of another recipe."""
  there = flatten(Settings.from_mapping(read_recipe(workdir)).to_mapping())
  if differing := differences(there, flatten(settings.to_mapping())):
    raise UserError(
      f'--workdir: {workdir} holds a run of another config ({differing}); give '
      'its own config or name another workdir.'
    )


def check_data(workdir: Path, digest: str) -> None:
  """Raises UserError if the run in the workdir was trained on another text."""
  if read_digest(workdir) != digest:
    raise UserError(
      f'--workdir: the run in {workdir} was trained on another text (sha256 in '
      f'{workdir / _DATA}); give that text or name another workdir.'
    )


def read_digest(workdir: Path) -> str:
  """The SHA-256 of the data that the run in a workdir was trained on.

  Raises:
    UserError: if it is not there.
  """
  path = workdir / _DATA
  content = read_json(path)
  if not isinstance(digest := content.get('sha256'), str):
    raise UserError(f'{path}: expected a sha256; restore it.')
  return digest


def read_tokenizer(workdir: Path) -> Tokenizer:
  """The tokenizer of the run in a workdir.

  Raises:
    UserError: if there is none, or it is damaged.
  """
  return load_tokenizer(workdir / _TOKENIZER)
