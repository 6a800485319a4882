"""What the spectral layers of a model store, as a table."""

from collections.abc import Mapping, Sequence

from spectral_jax.layers.spectral_kernel import SpectralKernel

_COLUMNS = ('layer', 'kernel', 'K', 'of n·m', 'bytes', 'rank', 'low rank')


def _row(path: str, kernel: SpectralKernel) -> tuple[str, ...]:
  selection = kernel.selection
  n, m = selection.shape
  copies = f'{kernel.copies}·' if kernel.copies > 1 else ''
  return (
    path,
    f'{copies}{n}×{m}',
    f'{copies}{selection.count:,}',
    f'{selection.fraction:.1%}',
    f'{4 * kernel.copies * selection.count:,}',
    f'≤ {selection.rank_bound}',
    f'{selection.count // (n + m)}',
  )


def layer_table(layers: Mapping[str, SpectralKernel]) -> str:
  """The layers, what they store, and what their kernels can become.

  Columns: the path; the kernel n×m, after the number of those stacked; K; K's
  part of n·m; bytes of the coefficients in float32; the largest rank that W can
  have; and the rank at which a low-rank layer stores as many numbers. The
  former is never below the latter: W of rank r has its positions in r rows and
  columns, at most r·max(n, m), while a low-rank layer of rank r wants r·(n+m).

  Args:
    layers: by `find_layers` or `match_layers`.

  Example:
    >>> from spectral_jax.core.selection import Selection
    >>> half = Selection.of('lowpass', (128, 512), keep=0.5)
    >>> print(layer_table({'mlp': SpectralKernel(half)}))
    layer  kernel   K       of n·m  bytes    rank   low rank
    mlp    128×512  32,768  50.0%   131,072  ≤ 128  51
    total  65,536   32,768  50.0%   131,072
  """
  dense = sum(k.copies * k.selection.size for k in layers.values())
  stored = sum(k.copies * k.selection.count for k in layers.values())
  share = f'{stored / dense:.1%}' if dense else ''
  rows = [
    _COLUMNS,
    *(_row(path, kernel) for path, kernel in layers.items()),
    ('total', f'{dense:,}', f'{stored:,}', share, f'{4 * stored:,}', '', ''),
  ]
  return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """Rows of cells as lines of aligned columns.

  >>> print(aligned([('K', 'loss'), ('4096', '1.5')]))
  K     loss
  4096  1.5
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(
      f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )
