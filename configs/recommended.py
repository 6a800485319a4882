"""What docs/results.md recommends under AdamW, on Tiny Shakespeare.

  python train.py --config=configs/recommended.py:ROW

ROW is one of:
  half: at random positions; the optimizer takes the gradients of kernels.
  quarter: likewise.
  tenth: as bands; the optimizer takes the gradients of coefficients.
  chosen-quarter: all coefficients are trained, and the weakest dropped by and
    by, until a quarter is left after nine tenths of the steps.
  chosen-tenth: until a tenth is left, after three quarters of them.

Under Muon take configs/shakespeare.py. About 10 min a row on one of 2 CPU cores
(seed 0, 2026-11-28 to 30, jax 0.10.1), to these validation losses, in
nats; the dense model's is 1.512:

| ROW | loss | perplexity |
|---|---|---|
| half | 1.517 | 4.56 |
| quarter | 1.552 | 4.72 |
| tenth | 1.625 | 5.08 |
| chosen-quarter | 1.534 | 4.64 |
| chosen-tenth | 1.593 | 4.92 |

While they are trained, the rows that choose hold all coefficients, and the
moments of a dense model; so do half and quarter the latter. On TPUs bands serve
them too, `--config.model.linear.selection=band`: 1.521 and 1.557.
"""

from ml_collections import ConfigDict

from configs import base

_ROWS: dict[str, tuple[dict[str, str | float], dict[str, str | float]]] = {
  'half': ({'selection': 'random', 'keep': 0.5}, {}),
  'quarter': ({'selection': 'random', 'keep': 0.25}, {}),
  'tenth': ({'selection': 'band', 'keep': 0.1}, {'gradients': 'coefficients'}),
  'chosen-quarter': ({'keep': 1.0}, {'drop_to': 0.25}),
  'chosen-tenth': ({'keep': 1.0}, {'drop_to': 0.1, 'drop_until': 0.75}),
}


def get_config(row: str = 'half') -> ConfigDict:
  """The paper's model, by AdamW, most often on the gradients of kernels."""
  base.check_row(row, *_ROWS)
  config = base.get_config()
  config.name = f'recommended-{row}'
  linear, optimizer = _ROWS[row]
  config.model.linear.update(linear)
  config.optimizer.update({'gradients': 'kernels', **optimizer})
  return config
