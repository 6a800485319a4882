"""Tables at equal stored parameters: wider spectral or narrower dense models.

A budget is that of a spectral model of the paper's width, 128, which keeps nm/D
of its coefficients; beside it stands the dense model of as many parameters.
"""

from benchmarks.rows import row
from benchmarks.table import Table

# Of the dense model its width and what it stores; D of the spectral one.
_QUARTER = (68, 243_168, 4)
_HALF = (92, 434_976, 2)


def _adamw(
  budget: tuple[int, int, int],
  rates: tuple[float, ...],
  wider: tuple[tuple[int, int], ...] = (),
) -> Table:
  """By AdamW, the dense model at several rates.

  Args:
    budget: which.
    rates: of the dense model.
    wider: D and width of spectral models that are wider still.
  """
  width, parameters, d = budget
  return Table(
    f'width_{width}',
    'Equal stored parameters, AdamW: a wider spectral model against a dense '
    f'one of width {width}',
    steps=2000,
    seeds=3,
    rows=(
      *(row('dense', width=width, rate=rate) for rate in rates),
      *(row('random', d, kernels=kernels) for kernels in (False, True)),
      *(
        row('random', more, width=wide, kernels=True, rate=1.5e-3)
        for more, wide in wider
      ),
    ),
    dense_parameters=parameters,
  )


def _longer(budget: tuple[int, int, int], rates: tuple[float, ...]) -> Table:
  """The same for 5,000 steps, on the gradients of kernels alone."""
  width, parameters, d = budget
  return Table(
    f'width_{width}_longer',
    'Equal stored parameters, for longer: a wider spectral model against a '
    f'dense one of width {width}; AdamW, of coefficients on the gradients of '
    'kernels',
    steps=5000,
    seeds=2,
    rows=(
      *(row('dense', width=width, rate=rate) for rate in rates),
      row('random', d, kernels=True),
    ),
    dense_parameters=parameters,
  )


def _muon(budget: tuple[int, int, int]) -> Table:
  """By Muon."""
  width, parameters, d = budget
  return Table(
    f'muon_width_{width}',
    'Equal stored parameters, Muon: a wider spectral model against a dense '
    f'one of width {width}',
    steps=2000,
    seeds=3,
    rows=(row('dense', muon=True, width=width), row('strided', d, muon=True)),
    dense_parameters=parameters,
  )


WIDTH_TABLES = (
  _adamw(_QUARTER, (3e-3, 6e-3, 9e-3, 1.2e-2)),
  _adamw(_HALF, (3e-3, 4.5e-3), wider=((4, 176), (8, 244))),
  _longer(_QUARTER, (6e-3, 9e-3)),
  _longer(_HALF, (3e-3, 4.5e-3)),
  Table(
    'width_92_chosen',
    'Equal storage, the chosen positions counted: wider models whose weakest '
    'numbers are dropped by and by, coefficients or weights, against the dense '
    'one of width 92; AdamW, of coefficients on the gradients of kernels',
    steps=2000,
    seeds=3,
    rows=(
      *(row('dense', width=92, rate=rate) for rate in (3e-3, 4.5e-3)),
      *(
        row(
          kind,
          width=width,
          left=d,
          until=until,
          kernels=kind != 'dense',
          rate=1.5e-3,
        )
        for d, until, width in ((4, 0.9, 168), (8, 0.75, 220))
        for kind in ('strided', 'dense')
      ),
    ),
    dense_parameters=434_976,
  ),
  Table(
    'width_128',
    'Equal stored parameters: wider spectral models against the dense one of '
    'the paper, at three learning rates; AdamW on the gradients of kernels',
    steps=2000,
    seeds=3,
    rows=(
      row('dense'),
      *(
        row('random', d, width=width, kernels=True, rate=rate)
        for d, width in ((2, 176), (4, 248))
        for rate in (1e-3, 1.5e-3, 3e-3)
      ),
    ),
  ),
  _muon(_QUARTER),
  _muon(_HALF),
)
