"""Shows what a run's layers became.

  python -m spectral_jax inspect WORKDIR [--checkpoint=best]

For each layer: the kernel, K (of a run that drops weights, those that are
left), the largest rank that it could have, its stable rank ‖W‖²_F / ‖W‖², and
the part of its energy in the lowest 1/16, 1/4 and 1/2 of the frequencies
(6.2 %, 25 % and 50 % where training prefers none). Draws loss.png and
spectra.png in WORKDIR again.
"""

import numpy as np

from spectral_jax.commands.runs import Run, define_checkpoint_flag, one_argument
from spectral_jax.layers.layer_table import aligned
from spectral_jax.training import report
from spectral_jax.training.metrics import read_metrics
from spectral_jax.training.spectra import energy_below, stable_ranks

_PARTS = (1 / 16, 1 / 4, 1 / 2)
_COLUMNS = ('layer', 'kernel', 'K', 'rank', 'stable rank')


def define_flags() -> None:
  """Defines this command's flags."""
  define_checkpoint_flag()


def run(arguments: list[str]) -> None:
  """Prints the table and draws the pictures.

  Raises:
    UserError: if there is no run.
  """
  directory = one_argument(arguments)
  trained = Run.read(directory)
  params = trained.state.params
  config = trained.experiment.settings.model
  layers = trained.layers()
  ranks = stable_ranks(params, config)
  energies = [energy_below(params, config, part) for part in _PARTS]
  rows = [(*_COLUMNS, *(f'lowest {part:g}' for part in _PARTS))]
  for block in range(config.layers):
    for name, (n, m) in config.kernel_shapes().items():
      path = f'{config.block_name(block)}/{name}'
      count, bound = n * m, min(n, m)
      if trained.kind == 'low_rank':
        count, bound = config.linear.rank * (n + m), config.linear.rank
      if path in layers:
        selection = layers[path].selection
        count, bound = selection.count, selection.rank_bound
      if trained.experiment.settings.drops:
        layer = config.block_params(params, block)[name]
        weights = layer['coefficients' if path in layers else 'kernel']
        count = int(np.count_nonzero(weights))
      rows.append(
        (
          f'block_{block}/{name}',
          f'{n}×{m}',
          f'{count:,}',
          f'≤ {bound}',
          f'{ranks[name][block]:.1f}',
          *(f'{energy[name][block]:.1%}' for energy in energies),
        )
      )
  print(aligned(rows))
  report.draw(trained.experiment, params, read_metrics(directory), directory)
  for picture in ('loss.png', 'spectra.png'):
    print(directory.absolute() / picture)
