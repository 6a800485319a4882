"""The rows of the paper's table (version 1), on Tiny Shakespeare.

  python train.py --config=configs/paper.py:ROW

ROW is one of:
  dense: every weight stored.
  spectral-50: the lowest half of the frequencies (`lowpass`).
  spectral-25: the lowest quarter.
  low-rank: rank 16.
"""

from ml_collections import ConfigDict

from configs import base

_ROWS = {
  'dense': {'kind': 'dense'},
  'spectral-50': {'kind': 'spectral', 'selection': 'lowpass', 'keep': 0.5},
  'spectral-25': {'kind': 'spectral', 'selection': 'lowpass', 'keep': 0.25},
  'low-rank': {'kind': 'low_rank', 'rank': 16},
}


def get_config(row: str = 'spectral-50') -> ConfigDict:
  """One row; equal steps, batches and learning rate in all of them."""
  if row not in _ROWS:
    raise ValueError(f'row: expected one of {", ".join(_ROWS)}, got {row!r}.')
  config = base.get_config()
  config.name = f'paper-{row}'
  config.data.corpus = 'tiny_shakespeare'
  config.model.linear.update(_ROWS[row])
  return config
