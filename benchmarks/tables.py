"""What is compared with what: the rows of every table, as data."""

from collections.abc import Mapping

from benchmarks.rows import Row, row
from benchmarks.table import Reported, Table
from benchmarks.width_tables import WIDTH_TABLES

_VERSION1_ROWS = (
  row('dense'),
  row('lowpass', 2),
  row('lowpass', 4),
  row('low rank', 48),
  row('low rank', 24),
  row('low rank', 16),
)
_VERSION1_PAPER = Reported(
  'perplexity',
  {
    'dense': 6.1,
    'lowpass-nm2': 6.1,
    'lowpass-nm4': 6.9,
    'low-rank-16': 8.8,
  },
)
_TABLES = (
  Table(
    'version1',
    'The paper, version 1: AdamW, one learning rate',
    steps=2000,
    seeds=3,
    rows=_VERSION1_ROWS,
    paper=_VERSION1_PAPER,
  ),
  Table(
    'quick',
    'In short: the rows of version 1 and two of random positions',
    steps=300,
    seeds=1,
    rows=(*_VERSION1_ROWS, row('random', 2), row('random', 4)),
    paper=_VERSION1_PAPER,
  ),
  Table(
    'muon',
    'Muon in its forms: on the blocks of strided, else on kernels; strided '
    'keeps nm/8 and nm/16 in place of nm/10 and nm/20',
    steps=500,
    seeds=1,
    rows=(
      row('dense', muon=True),
      *(row('strided', d, muon=True) for d in (2, 4, 8, 16)),
      row('lowpass', 2, muon=True),
      *(row(kind, d, muon=True) for kind in ('random', 'band') for d in (2, 4)),
      *(row('low rank', rank, muon=True) for rank in (48, 24, 10, 5)),
    ),
  ),
  Table(
    'version2',
    'The paper, version 2: selections and bases at equal numbers of '
    'parameters, AdamW; strided keeps nm/8 and nm/16 in place of nm/10 and '
    'nm/20',
    steps=2000,
    seeds=3,
    rows=(
      row('dense'),
      row('random', 1),
      *(
        row(kind, d)
        for kind in ('lowpass', 'block', 'random', 'band')
        for d in (2, 4, 10, 20)
      ),
      *(row('strided', d) for d in (2, 4, 8, 16)),
      *(
        row(kind, d, basis='orthonormal')
        for kind in ('lowpass', 'random', 'band')
        for d in (2, 4, 10, 20)
      ),
      *(row('low rank', rank) for rank in (48, 24, 10, 5)),
    ),
    paper=Reported(
      'loss', {'dense': 1.580, 'lowpass-nm2': 1.604, 'low-rank-48': 1.801}
    ),
  ),
  Table(
    'kernels',
    'Adam on the gradients of kernels, projected, and on those of coefficients',
    steps=2000,
    seeds=3,
    rows=(
      row('dense'),
      *(
        row('random', d, kernels=kernels)
        for d in (2, 4, 10)
        for kernels in (False, True)
      ),
      *(row('band', d, kernels=True) for d in (2, 4)),
    ),
  ),
  Table(
    'dropped',
    'The weakest of all coefficients, or of all weights, dropped by and by: '
    'AdamW on the gradients of kernels',
    steps=2000,
    seeds=3,
    rows=(
      row('dense'),
      *(row('random', d, kernels=True) for d in (4, 10)),
      *(
        row(kind, left=d, until=until, kernels=kind != 'dense')
        for kind in ('strided', 'dense')
        for d, until in ((4, 0.9), (10, 0.75))
      ),
    ),
  ),
  Table(
    'kernels_rates',
    'The learning rate of AdamW on the gradients of kernels',
    steps=2000,
    seeds=1,
    rows=tuple(
      row(kind, d, kernels=kind != 'dense', rate=rate)
      for kind, d in (('dense', 1), ('random', 2), ('random', 4))
      for rate in (1.5e-3, 3e-3, 6e-3)
    ),
    against='rate',
  ),
  Table(
    'kernels_longer',
    'Adam on the gradients of kernels for longer: does the difference vanish?',
    steps=5000,
    seeds=2,
    rows=(
      row('dense'),
      *(row('random', d, kernels=True) for d in (2, 4)),
    ),
  ),
  Table(
    'kernels_longest',
    'Until the dense model has learnt its text by heart: AdamW, on the '
    'gradients of kernels at a half and a quarter',
    steps=10_000,
    seeds=1,
    rows=(
      row('dense'),
      *(row('random', d, kernels=True) for d in (2, 4)),
      row('random', 10),
    ),
  ),
  Table(
    'dropout',
    'Where the dense model learns its text by heart: dropout or not; AdamW, on '
    'the gradients of kernels at a half and a quarter',
    steps=10_000,
    seeds=1,
    rows=tuple(
      row(kind, d, kernels=kind != 'dense', dropout=dropout)
      for kind, d in (('dense', 1), ('random', 2), ('random', 4))
      for dropout in (0.0, 0.1)
    ),
  ),
  Table(
    'transfer',
    'Does the learning rate of the dense model serve them all? AdamW',
    steps=500,
    seeds=1,
    rows=tuple(
      row(kind, d, rate=rate)
      for kind, d in (
        ('dense', 1),
        ('random', 2),
        ('random', 4),
        ('random', 10),
        ('lowpass', 4),
        ('band', 4),
        ('strided', 4),
      )
      for rate in (1.5e-3, 3e-3, 6e-3, 1.2e-2)
    ),
    against='rate',
  ),
  Table(
    'initial_scale',
    'The standard deviation of the initial kernels over 1/√n: AdamW',
    steps=500,
    seeds=1,
    rows=tuple(
      row(kind, d, scale=scale)
      for kind, d in (('dense', 1), ('random', 4), ('random', 10))
      for scale in (1.0, 0.5, 2.0)
    ),
  ),
  Table(
    'attention',
    'Queries, keys and values from one kernel or from three: AdamW',
    steps=500,
    seeds=1,
    rows=(
      row('dense'),
      row('random', 4),
      row('random', 4, separate=True),
    ),
  ),
  Table(
    'attention_muon',
    'Queries, keys and values from one kernel or from three: Muon',
    steps=500,
    seeds=1,
    rows=tuple(
      row(kind, d, muon=True, separate=separate)
      for kind, d in (('dense', 1), ('strided', 2))
      for separate in (False, True)
    ),
  ),
  Table(
    'muon_long',
    'Muon for as long as version 1',
    steps=2000,
    seeds=3,
    rows=(
      row('dense', muon=True),
      *(row('strided', d, muon=True) for d in (2, 4)),
      *(row('band', d, muon=True) for d in (2, 4)),
      row('random', 2, muon=True),
      row('dense', muon=True, separate=True),
      row('strided', 2, muon=True, separate=True),
    ),
  ),
  Table(
    'muon_longer',
    'Muon for longer still: does the difference vanish?',
    steps=5000,
    seeds=1,
    rows=(
      row('dense', muon=True),
      *(row('strided', d, muon=True) for d in (2, 4)),
    ),
  ),
  Table(
    'muon_rates',
    "Muon's learning rate",
    steps=500,
    seeds=1,
    rows=tuple(
      row(kind, d, muon=True, rate=rate)
      for kind, d in (('dense', 1), ('strided', 2), ('strided', 4))
      for rate in (0.01, 0.02, 0.04, 0.08)
    ),
    against='rate',
  ),
  *WIDTH_TABLES,
  Table(
    'bytes',
    'Python sources, byte by byte: AdamW',
    steps=500,
    seeds=1,
    rows=tuple(
      row(kind, d, corpus='python_sources')
      for kind, d in (('dense', 1), ('random', 2), ('random', 4))
    ),
    dense_parameters=875_264,
  ),
  Table(
    'plays',
    'The bundled plays, as in the default recipe: Muon',
    steps=1000,
    seeds=1,
    rows=tuple(
      row(kind, d, muon=True, corpus='shakespeare_plays')
      for kind, d in (('dense', 1), ('strided', 2), ('strided', 4))
    ),
    dense_parameters=825_856,
  ),
)
TABLES: Mapping[str, Table] = {table.name: table for table in _TABLES}
ROWS: Mapping[str, Row] = {
  each.name: each for table in _TABLES for each in table.rows
}
