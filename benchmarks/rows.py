"""What is trained and how it is compared: the rows of every table, as data.

K = nm/D stands for keeping 1/D of the n·m coefficients of each kernel. Queries,
keys and values share one kernel, except where a row says `separate`. A row's
name is that of its folder, so it tells everything that sets the row apart.
"""

import dataclasses
import math
from collections.abc import Mapping

ADAMW_RATE = 3e-3  # of configs/paper.py
MUON_RATE = 0.04  # the best of docs/results.md, dense and strided alike
_CORPORA = {
  'tiny_shakespeare': (),
  'shakespeare_plays': ('--config.data.corpus=shakespeare_plays',),
  'python_sources': (
    '--config.data.corpus=text',
    '--config.data.tokenizer=byte',
  ),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A recipe: a row of configs/paper.py, and flags on top of it.

  Attributes:
    name: of the folder of its runs, and what --rows searches.
    label: its name in tables and pictures; rows that differ in their learning
      rate alone share it.
    family: dense, a selection, or low rank; with the basis, if not the DCT.
    rate: the peak learning rate of the blocks' kernels.
    flags: for train.py.
    base: the row of configs/paper.py.
    corpus: tiny_shakespeare, shakespeare_plays or python_sources.
  """

  name: str
  label: str
  family: str
  rate: float
  flags: tuple[str, ...]
  base: str = 'dense'
  corpus: str = 'tiny_shakespeare'


@dataclasses.dataclass(frozen=True)
class Reported:
  """What the paper reports for the rows of a table.

  Attributes:
    measure: perplexity, or loss (in nats).
    values: by the name of the row.
  """

  measure: str
  values: Mapping[str, float]

  def loss(self, row: str) -> float:
    """The row's loss in nats."""
    value = self.values[row]
    return math.log(value) if self.measure == 'perplexity' else value


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows that are compared with each other.

  Attributes:
    name: what --tables names.
    title: a line that says what is compared.
    steps: optimizer steps of each run.
    seeds: runs of each row, with the seeds 0, 1, ….
    rows: in the order of the table. A row may be in several tables, and is
      trained once for each number of steps and seed.
    paper: what the paper reports, if anything.
    dense_parameters: what the dense model stores.
    against: what the pictures draw the loss against, parameters or rate.
  """

  name: str
  title: str
  steps: int
  seeds: int
  rows: tuple[Row, ...]
  paper: Reported | None = None
  dense_parameters: int = 826_368
  against: str = 'parameters'


def _row(
  kind: str,
  size: int = 1,
  *,
  basis: str = 'dct',
  muon: bool = False,
  rate: float | None = None,
  width: int = 128,
  scale: float = 1.0,
  separate: bool = False,
  kernels: bool = False,
  corpus: str = 'tiny_shakespeare',
) -> Row:
  """A row; `size` is D of K = nm/D for a selection, the rank for low rank."""
  rate = rate or (MUON_RATE if muon else ADAMW_RATE)
  names = [kind.replace(' ', '-')]
  label = family = kind
  flags: list[str] = []
  if kind == 'dense':
    base = 'dense'
  elif kind == 'low rank':
    base = 'low-rank'
    names.append(f'{size}')
    label += f' {size}'
    flags.append(f'--config.model.linear.rank={size}')
  else:
    base = 'spectral-50'
    names.append(f'nm{size}')
    label += f' nm/{size}'
    flags.append(f'--config.model.linear.selection={kind}')
    flags.append(f'--config.model.linear.keep={1 / size:g}')
    # Only the blocks of strided are matrices by themselves.
    if kernels or (muon and kind != 'strided'):
      flags.append('--config.optimizer.gradients=kernels')
  if separate:
    names.append('separate')
    label += ', separate q k v'
    family += ', separate' if kind != 'dense' else ''
    flags.append('--config.model.qkv=separate')
  if basis != 'dct':
    names.append(basis)
    label += f', {basis}'
    family += f', {basis}'
    flags.append(f'--config.model.linear.basis={basis}')
  if width != 128:
    names.append(f'width-{width}')
    label += f', width {width}'
    flags.append(f'--config.model.width={width}')
  if scale != 1:
    names.append(f'scale-{scale:g}')
    label += f', initial scale {scale:g}'
    flags.append(f'--config.model.initial_scale={scale:g}')
  if kernels and not muon:
    names.append('kernels')
    label += ', by kernels'
    family += ', by kernels'
  if muon:
    names = ['muon', *names, f'{rate:g}']
    flags.append('--config.optimizer.name=muon')
    flags.append(f'--config.optimizer.muon_learning_rate={rate:g}')
  elif rate != ADAMW_RATE:
    names.append(f'{rate:g}')
    flags.append(f'--config.optimizer.learning_rate={rate:g}')
  if corpus != 'tiny_shakespeare':
    names.append(corpus)
  return Row(
    '-'.join(names),
    label,
    family,
    rate,
    (*_CORPORA[corpus], *flags),
    base,
    corpus,
  )


_VERSION1_ROWS = (
  _row('dense'),
  _row('lowpass', 2),
  _row('lowpass', 4),
  _row('low rank', 48),
  _row('low rank', 24),
  _row('low rank', 16),
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
    rows=(*_VERSION1_ROWS, _row('random', 2), _row('random', 4)),
    paper=_VERSION1_PAPER,
  ),
  Table(
    'muon',
    'Muon in its forms: on the blocks of strided, else on kernels; strided '
    'keeps nm/8 and nm/16 in place of nm/10 and nm/20',
    steps=500,
    seeds=1,
    rows=(
      _row('dense', muon=True),
      *(_row('strided', d, muon=True) for d in (2, 4, 8, 16)),
      _row('lowpass', 2, muon=True),
      *(
        _row(kind, d, muon=True) for kind in ('random', 'band') for d in (2, 4)
      ),
      *(_row('low rank', rank, muon=True) for rank in (48, 24, 10, 5)),
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
      _row('dense'),
      _row('random', 1),
      *(
        _row(kind, d)
        for kind in ('lowpass', 'block', 'random', 'band')
        for d in (2, 4, 10, 20)
      ),
      *(_row('strided', d) for d in (2, 4, 8, 16)),
      *(
        _row(kind, d, basis='orthonormal')
        for kind in ('lowpass', 'random', 'band')
        for d in (2, 4, 10, 20)
      ),
      *(_row('low rank', rank) for rank in (48, 24, 10, 5)),
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
      _row('dense'),
      *(
        _row('random', d, kernels=kernels)
        for d in (2, 4, 10)
        for kernels in (False, True)
      ),
    ),
  ),
  Table(
    'transfer',
    'Does the learning rate of the dense model serve them all? AdamW',
    steps=500,
    seeds=1,
    rows=tuple(
      _row(kind, d, rate=rate)
      for kind, d in (
        ('dense', 1),
        ('random', 2),
        ('random', 4),
        ('random', 10),
        ('lowpass', 4),
        ('band', 4),
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
      _row(kind, d, scale=scale)
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
      _row('dense'),
      _row('random', 4),
      _row('random', 4, separate=True),
    ),
  ),
  Table(
    'attention_muon',
    'Queries, keys and values from one kernel or from three: Muon',
    steps=500,
    seeds=1,
    rows=tuple(
      _row(kind, d, muon=True, separate=separate)
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
      _row('dense', muon=True),
      *(_row('strided', d, muon=True) for d in (2, 4)),
      *(_row('band', d, muon=True) for d in (2, 4)),
      _row('random', 2, muon=True),
    ),
  ),
  Table(
    'muon_longer',
    'Muon for longer still: does the difference vanish?',
    steps=5000,
    seeds=1,
    rows=(
      _row('dense', muon=True),
      *(_row('strided', d, muon=True) for d in (2, 4)),
    ),
  ),
  Table(
    'muon_rates',
    "Muon's learning rate",
    steps=500,
    seeds=1,
    rows=tuple(
      _row(kind, d, muon=True, rate=rate)
      for kind, d in (('dense', 1), ('strided', 2), ('strided', 4))
      for rate in (0.01, 0.02, 0.04, 0.08)
    ),
    against='rate',
  ),
  *(
    Table(
      f'width_{dense}',
      f'Equal stored parameters: a wider spectral model against a dense one of '
      f'width {dense}',
      steps=2000,
      seeds=3,
      rows=(
        _row('dense', width=dense),
        *(_row('random', d, width=width) for d, width in wider),
      ),
      dense_parameters=parameters,
    )
    for dense, wider, parameters in (
      (68, ((4, 128),), 243_168),
      (92, ((2, 128),), 434_976),
      (128, ((2, 176), (4, 248)), 826_368),
    )
  ),
  *(
    Table(
      f'muon_width_{width}',
      f'Equal stored parameters, Muon: a wider spectral model against a dense '
      f'one of width {width}',
      steps=2000,
      seeds=3,
      rows=(
        _row('dense', muon=True, width=width),
        _row('strided', d, muon=True),
      ),
      dense_parameters=parameters,
    )
    for width, d, parameters in ((68, 4, 243_168), (92, 2, 434_976))
  ),
  Table(
    'bytes',
    'Python sources, byte by byte: AdamW',
    steps=500,
    seeds=1,
    rows=tuple(
      _row(kind, d, corpus='python_sources')
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
      _row(kind, d, muon=True, corpus='shakespeare_plays')
      for kind, d in (('dense', 1), ('strided', 2), ('strided', 4))
    ),
    dense_parameters=825_856,
  ),
)
TABLES: Mapping[str, Table] = {table.name: table for table in _TABLES}
ROWS: Mapping[str, Row] = {
  row.name: row for table in _TABLES for row in table.rows
}
