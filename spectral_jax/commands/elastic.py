"""Shows what a run's loss is with fewer coefficients, without training.

  python -m spectral_jax elastic WORKDIR --keep=0.5,0.25,0.1

The coefficients of a spectral run are cut to each K (or grown, by zeros); the
kernels of a dense run are projected onto each K of --selection. The loss is
that on the whole validation split, as --mode=eval has it.
"""

from typing import Any

import jax
from absl import flags

from spectral_jax.commands.runs import (
  Run,
  define_checkpoint_flag,
  fraction,
  one_argument,
)
from spectral_jax.core.selection import KINDS
from spectral_jax.layers.layer_table import aligned
from spectral_jax.training.experiment import Experiment


def define_flags() -> None:
  """Defines this command's flags."""
  define_checkpoint_flag()
  flags.DEFINE_list(
    'keep', ['1', '0.5', '0.25', '0.125'], 'Fractions of n·m, with commas.'
  )
  flags.DEFINE_enum(
    'selection', 'lowpass', list(KINDS), 'For a dense run: which coefficients.'
  )


def _row(name: str, experiment: Experiment, params: Any) -> tuple[str, ...]:
  score = experiment.score(params, 'validation')
  leaves = jax.tree.leaves(params)
  return (
    name,
    f'{sum(leaf.size for leaf in leaves):,}',
    f'{sum(leaf.nbytes for leaf in leaves):,}',
    f'{score.loss:.4f}',
    f'{score.perplexity:.3f}',
  )


def run(arguments: list[str]) -> None:
  """Prints the table.

  Raises:
    UserError: if there is no run, or its K cannot be so.
  """
  directory = one_argument(arguments)
  keeps = [fraction(text) for text in flags.FLAGS.keep or ['']]
  trained = Run.read(directory)
  trained.check_convertible(directory)
  rows = [
    ('keep', 'parameters', 'bytes', 'validation loss', 'perplexity'),
    _row('as trained', trained.experiment, trained.state.params),
  ]
  other = (
    {}
    if trained.kind == 'spectral'
    else {'kind': 'spectral', 'selection': flags.FLAGS.selection}
  )
  for keep in keeps:
    experiment = trained.experiment_with(keep=keep, **other)
    rows.append(_row(f'{keep:g}', experiment, trained.params_as(experiment)))
  print(aligned(rows))
