"""The rows of the paper's table (version 1), on Tiny Shakespeare.

  python train.py --config=configs/paper.py:ROW

ROW is one of:
  dense: every weight stored.
  spectral-50: the lowest half of the frequencies (`lowpass`).
  spectral-25: the lowest quarter.
  low-rank: rank 16.

10 to 16 min a row on 2 CPU cores that had other work as well (seed 0,
2026-11-21, jax 0.10.1), to these validation losses, in nats:

| ROW | loss | perplexity |
|---|---|---|
| dense | 1.512 | 4.54 |
| spectral-50 | 1.565 | 4.78 |
| spectral-25 | 1.684 | 5.39 |
| low-rank | 1.903 | 6.70 |
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
  base.check_row(row, *_ROWS)
  config = base.get_config()
  config.name = f'paper-{row}'
  config.data.corpus = 'tiny_shakespeare'
  config.model.linear.update(_ROWS[row])
  return config
