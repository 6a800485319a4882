"""A row of a table: a recipe, and what it is called.

K = nm/D stands for keeping 1/D of the n·m coefficients of each kernel. Queries,
keys and values share one kernel, except where a row says `separate`. A row's
name is that of its folder, so it tells everything that sets the row apart.
"""

import dataclasses

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
    family: dense, a selection, or low rank; and what else curves are told apart
      by, such as the basis.
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


def muon_takes_kernels(selection: str) -> bool:
  """Whether Muon takes the gradients of kernels: of positions in no blocks."""
  return selection != 'strided'


def row(
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
  dropout: float = 0.0,
  left: int | None = None,
  until: float = 0.9,
  corpus: str = 'tiny_shakespeare',
) -> Row:
  """A row; `size` is D of K = nm/D for a selection, the rank for low rank.

  With `kernels` AdamW takes the gradients of kernels; Muon does so anyway,
  except for `strided`, whose blocks are matrices by themselves. With `left` the
  weakest numbers are dropped, until nm/`left` are left after the part `until`
  of the steps.
  """
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
    if kernels or (muon and muon_takes_kernels(kind)):
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
  if dropout:
    names.append(f'dropout-{dropout:g}')
    label += f', dropout {dropout:g}'
    flags.append(f'--config.model.dropout={dropout:g}')
  if left:
    names.append(f'left-nm{left}')
    label += f', nm/{left} left'
    family += ', dropped'
    flags.append(f'--config.optimizer.drop_to={size / left:g}')
    if until != 0.9:
      names.append(f'until-{until:g}')
      label += f' after {until:.0%} of the steps'
      flags.append(f'--config.optimizer.drop_until={until:g}')
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
