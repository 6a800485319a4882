"""Larger models, on documents that TensorFlow Datasets prepared: C4 or LM1B.

  python train.py --config=configs/c4.py:ROW --config.data.tokenizer=c4.model
  python train.py --config=configs/c4.py:ROW --config.data.path=lm1b

ROW is one of:
  gpt2-small: GPT-2 small's 12 layers of width 768, on 10.5 billion tokens.
  1.3b: 24 layers of width 2048, on 26 billion tokens.

Blocks are scanned and computed again for their gradients, in bfloat16, their
kernels in halves of coefficients split over all devices (fsdp). Whether that
fits can be asked without any device, see docs/scaling.md:

  python train.py --mode=compile --topology=v5e:16x16 --config=configs/c4.py:ROW

Both rows want a GPU or a TPU, and the data: docs/data.md tells how to prepare
it, and how to make c4.model, a SentencePiece model; without one a token is a
byte.
Neither was trained to its end yet, so no time and no score is known. Scanned
blocks share their positions, and AdamW sees coefficients, not the gradients of
kernels, which at these sizes would lie on every device: neither was compared
with the other way on models of this kind.
"""

from ml_collections import ConfigDict

from configs import base

_ROWS = {
  'gpt2-small': {
    'model': {'width': 768, 'layers': 12, 'heads': 12, 'context': 1024},
    'optimizer': {'learning_rate': 6e-4, 'warmup_steps': 700},
    'train': {'steps': 20_000, 'batch_size': 512, 'accumulate': 8},
  },
  '1.3b': {
    'model': {'width': 2048, 'layers': 24, 'heads': 16, 'context': 2048},
    'optimizer': {'learning_rate': 2e-4, 'warmup_steps': 375},
    'train': {'steps': 24_800, 'batch_size': 512},
  },
}


def get_config(row: str = 'gpt2-small') -> ConfigDict:
  """A model, its batch, and the learning rate of a dense model of its size."""
  base.check_row(row, *_ROWS)
  config = base.get_config()
  config.name = f'c4-{row}'
  config.data.corpus = 'tfds'
  config.data.path = 'c4/en'
  config.data.tokenizer = 'byte'
  config.data.evaluation_documents = 4096
  config.model.update(
    {'qkv': 'separate', 'dtype': 'bfloat16', 'scan': True, 'remat': True}
  )
  config.optimizer.b2 = 0.95
  config.train.evaluate_every = 1000
  config.mesh.update({'data': 1, 'fsdp': -1})
  for section, values in _ROWS[row].items():
    config[section].update(values)
  return config
