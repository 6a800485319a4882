"""The paper's model and our optimizer: what all recipes start from.

Not a recipe itself; configs/shakespeare.py and configs/paper.py are.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The values that the recipes share; `python train.py --help` explains."""
  return ConfigDict(
    {
      'name': 'base',
      'seed': 0,
      'data': {
        'corpus': 'tiny_shakespeare',
        'path': '',
        'directory': '',
        'tokenizer': 'char',
        'evaluation_documents': 0,
      },
      'model': {
        'context': 128,
        'width': 128,
        'layers': 4,
        'heads': 4,
        'dropout': 0.0,
        'initial_scale': 1.0,
        'qkv': 'fused',
        'norm_epsilon': 1e-6,
        'dtype': 'float32',
        'scan': False,
        'remat': False,
        'linear': {
          'kind': 'spectral',
          'keep': 0.5,
          'selection': 'strided',
          'method': 'auto',
          'basis': 'dct',
          'rank': 16,
        },
      },
      'optimizer': {
        'name': 'adamw',
        'learning_rate': 3e-3,
        'muon_learning_rate': 0.02,
        'gradients': 'coefficients',
        'warmup_steps': 100,
        'final_fraction': 0.1,
        'weight_decay': 0.1,
        'b1': 0.9,
        'b2': 0.99,
        'clip_norm': 1.0,
        'drop_to': 1.0,
        'drop_until': 0.9,
      },
      'train': {
        'steps': 2000,
        'batch_size': 16,
        'accumulate': 1,
        'evaluate_every': 250,
        'log_every': 20,
        'rebuild_every': 'step',
        'share_rebuilding': False,
        'on_nonfinite': 'stop',
        'spike_factor': 0.0,
      },
      'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1},
    }
  )


def check_row(row: str, *rows: str) -> None:
  """Checks the row that a recipe was asked for, as FILE:ROW."""
  if row not in rows:
    raise ValueError(f'row: expected one of {", ".join(rows)}, got {row!r}.')
