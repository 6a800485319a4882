"""What an epoch of packed documents leaves out, reads twice, and pads.

  python -m benchmarks.packing [--context=1024] [--documents=4_000_000]

Draws lengths of documents that resemble LM1B's and C4's, and counts tokens:
packed into stretches as spectral_jax/data/packing.py does, and cut or padded,
each row a few documents. Prints a Markdown table; nothing is read.
"""

from collections.abc import Sequence

import numpy as np
from absl import app, flags
from numpy.typing import NDArray

from spectral_jax.data.packing import plan

_CONTEXT = flags.DEFINE_integer('context', 1024, 'Tokens a row.', lower_bound=1)
_DOCUMENTS = flags.DEFINE_integer(
  'documents', 4_000_000, 'How many are drawn.', lower_bound=10_000
)
Lengths = NDArray[np.int64]
# Tokens never seen and read twice, of those that there are; padding, of rows.
Shares = tuple[float, float, float]


def draw_lengths(corpus: str, count: int) -> Lengths:
  """Lengths of documents in tokens, of a distribution like a corpus's."""
  draw = np.random.default_rng(0)
  if corpus == 'LM1B':  # sentences: mean 30, standard deviation 17
    lengths = draw.gamma((30 / 17) ** 2, 17**2 / 30, count)
  else:  # web pages: mean 480, standard deviation 790
    variance = np.log1p((790 / 480) ** 2)
    lengths = draw.lognormal(np.log(480) - variance / 2, variance**0.5, count)
  return np.maximum(1, np.rint(lengths)).astype(np.int64)


def packed(lengths: Lengths, context: int, documents: int) -> Shares:
  """Shares where stretches of so many documents are packed."""
  rows, stride = plan(float(lengths.mean()), context, documents)
  # Where a stretch starts in the stream of all documents, and the one after.
  starts = np.concatenate([[0], np.cumsum(lengths + 1)])[::stride]
  rest = np.diff(starts) - rows * context
  total = starts[-1]
  skipped, again = np.maximum(rest, 0).sum(), np.maximum(-rest, 0).sum()
  return float(skipped / total), float(again / total), 0.0


def padded(lengths: Lengths, context: int, documents: int) -> Shares:
  """Shares where each row has so many documents, and is cut or padded."""
  there = len(lengths) // documents * documents
  rows = (lengths[:there] + 1).reshape(-1, documents).sum(axis=1)
  cut, free = np.maximum(rows - context, 0), np.maximum(context - rows, 0)
  return (
    float(cut.sum() / rows.sum()),
    0.0,
    float(free.sum() / (len(rows) * context)),
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  del argv
  context = _CONTEXT.value
  drawn = {
    corpus: draw_lengths(corpus, _DOCUMENTS.value) for corpus in ('LM1B', 'C4')
  }
  mean_rows = {
    corpus: max(1, round(context / (lengths.mean() + 1)))
    for corpus, lengths in drawn.items()
  }
  table = {
    f'stretches of {count} documents': {
      corpus: packed(lengths, context, count)
      for corpus, lengths in drawn.items()
    }
    for count in (64, 128, 256)
  }
  for way, times in (
    ('T / mean documents a row, cut or padded', 1),
    ('twice as many', 2),
  ):
    table[way] = {
      corpus: padded(lengths, context, times * mean_rows[corpus])
      for corpus, lengths in drawn.items()
    }
  table['one document a row'] = {
    corpus: padded(lengths, context, 1) for corpus, lengths in drawn.items()
  }
  told = (f'{corpus}: never seen, read twice, padding' for corpus in drawn)
  print(f'| way to fill a row | {" | ".join(told)} |')
  print('|---|---|---|')
  for way, found in table.items():
    cells = (
      ', '.join(f'{share:.1%}' for share in shares) for shares in found.values()
    )
    print(f'| {way} | {" | ".join(cells)} |')


if __name__ == '__main__':
  app.run(main)
