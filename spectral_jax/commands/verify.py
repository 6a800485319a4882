"""Reads every checkpoint of a run and says whether it is what was saved.

  python -m spectral_jax verify WORKDIR

Each step is good, damaged (with the first file that is not as it was), without
checksums (saved by an older version), or unfinished (its saving was cut short;
training removes it). The exit status is 1 if one is damaged. Those that
training has set aside are listed, and do not count.
"""

import sys
from pathlib import Path

from spectral_jax.commands.runs import one_argument
from spectral_jax.layers.layer_table import aligned
from spectral_jax.training import manifest, workdir
from spectral_jax.training.manifest import DamagedError, State


def define_flags() -> None:
  """Defines this command's flags: none."""


def _loss(folder: Path) -> str:
  try:
    found = manifest.read(folder)
  except DamagedError:
    return ''
  if found is None or found.validation_loss is None:
    return ''
  return f'{found.validation_loss:.4f}'


def run(arguments: list[str]) -> None:
  """Prints the table.

  Raises:
    UserError: if there is no run.
    SystemExit: with status 1, if a step is damaged.
  """
  directory = one_argument(arguments)
  workdir.read_recipe(directory)
  folder = workdir.checkpoints(directory)
  rows = [('step', 'validation loss', 'state')]
  damaged = False
  for step in workdir.step_folders(folder):
    state, problem = manifest.state(step)
    damaged |= state is State.DAMAGED
    told = f'{state.value}: {problem}' if problem else state.value
    rows.append((step.name, _loss(step), told))
  rows += [
    (aside.name, '', f'damaged, set aside as {aside}')
    for aside in workdir.steps_aside(folder)
  ]
  print(aligned(rows))
  if damaged:
    sys.exit(1)
