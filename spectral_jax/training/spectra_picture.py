"""Heat maps of where in the spectrum a model's kernels have their energy."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

_RED, _GREY = '#c8401f', '#6b6b6b'
_NOT_STORED = '#d9d9d9'  # neutral: the colour map holds no grey
_COLOURS = 'viridis'
_CELLS = 64  # heat map cells a side; fewer positions share one where more
_RINGS = 16  # points of a radial curve
_CORNER = 32  # positions a side that are shown one by one
_DPI = 150
# Of the panels, and what is between them, in inches: rows, columns.
_HEIGHTS, _WIDTH, _BETWEEN = (2.4, 2.4, 1.5), 2.6, (0.75, 0.75)


def draw_spectra(
  spectra: Mapping[str, np.ndarray],
  path: Path,
  *,
  title: str,
  initial: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Draws the size of the stored coefficients over the plane, as a PNG.

  For each kind of layer, from top to bottom: |coefficient|, the mean of its
  layers, over the whole plane, in cells of several positions where the plane is
  large; the corner of the first layer's lowest frequencies, position by
  position; and, with `initial`, the mean at each radial frequency before
  training and now: where the two curves part, training has put energy in or
  taken it out. All kinds share one logarithmic colour scale.

  Args:
    spectra: For each kind of layer, |coefficient| as [layers, n, m], input
      frequency first; NaN where a layer does not store the position.
    path: The file to write.
    title: Stands above the panels.
    initial: The same at initialization.

  Raises:
    ValueError: If there is nothing to draw, or `initial` lacks a kind.
  """
  if not spectra:
    raise ValueError('spectra: expected one kind of layer or more, got none')
  if initial is not None and not initial.keys() >= spectra.keys():
    raise ValueError(
      f'initial: expected the kinds {sorted(spectra)}, got {sorted(initial)}'
    )
  figure, grid, colours = _panels(len(spectra), 2 if initial is None else 3)
  figure.suptitle(
    title, y=1 - 0.15 / figure.get_figheight(), fontsize=14, parse_math=False
  )
  means = {kind: mean_stored(stack, 0) for kind, stack in spectra.items()}
  cells = {kind: pool(mean) for kind, mean in means.items()}
  scale = _scale(list(cells.values()))
  for (kind, stack), (plane, corner, *curves) in zip(
    spectra.items(), grid.T, strict=True
  ):
    layers, n, m = stack.shape
    tall, wide = _cell(means[kind])
    stored = np.isfinite(stack).mean()
    heading = f'{kind}, {n} × {m}, {stored:.0%} of positions'
    if layers * tall * wide > 1:
      heading += f'\na cell: mean of the stored of {layers} × {tall} × {wide}'
    plane.set_title(heading, fontsize=10, parse_math=False)
    _draw_plane(plane, cells[kind], (n, m), (tall, wide), scale)
    low = stack[0, :_CORNER, :_CORNER]
    a, b = low.shape
    corner.set_title(f'first layer, lowest {a} × {b}', fontsize=10)
    image = _draw_plane(corner, low, low.shape, (1, 1), scale)
    if initial is not None:
      _draw_curves(curves[0], means[kind], mean_stored(initial[kind], 0))
  bar = figure.colorbar(
    image, cax=colours, label='|coefficient|', extend='both'
  )
  _plain_numbers(bar.ax.yaxis, [1, 2, 5])
  handles: list[Artist] = [
    Patch(facecolor=_NOT_STORED, edgecolor=_GREY, label='not stored')
  ]
  if initial is not None:
    handles += curves[0].lines
  figure.legend(handles=handles, loc='lower center', ncols=3, frameon=False)
  figure.savefig(path, dpi=_DPI, format='png')


def _panels(columns: int, rows: int) -> tuple[Figure, np.ndarray, Axes]:
  """Returns a figure, its panels [rows, columns], and room for a colour bar."""
  # In inches. Matplotlib's own layout engine takes as long as the drawing.
  heights = _HEIGHTS[:rows]
  top, bottom, left, right = 1.0, 0.95, 0.75, 1.15
  height = sum(heights) + (rows - 1) * _BETWEEN[0]
  width = columns * _WIDTH + (columns - 1) * _BETWEEN[1]
  size = left + width + right, bottom + height + top
  figure = Figure(figsize=size)
  grid = figure.subplots(
    rows,
    columns,
    squeeze=False,
    height_ratios=heights,
    gridspec_kw={
      'left': left / size[0],
      'right': (left + width) / size[0],
      'bottom': bottom / size[1],
      'top': (bottom + height) / size[1],
      'hspace': _BETWEEN[0] / np.mean(heights),
      'wspace': _BETWEEN[1] / _WIDTH,
    },
  )
  colours = figure.add_axes(
    (
      (left + width + 0.2) / size[0],
      bottom / size[1],
      0.16 / size[0],
      height / size[1],
    )
  )
  return figure, grid, colours


def _cell(spectrum: np.ndarray) -> tuple[int, int]:
  """Returns how many positions a cell of the heat map holds, n × m."""
  n, m = spectrum.shape
  return math.ceil(n / _CELLS), math.ceil(m / _CELLS)


def pool(spectrum: np.ndarray) -> np.ndarray:
  """Returns at most _CELLS cells a side: means of what each cell stores."""
  n, m = spectrum.shape
  tall, wide = _cell(spectrum)
  padded = np.pad(
    np.asarray(spectrum, float),
    [(0, -n % tall), (0, -m % wide)],
    constant_values=np.nan,
  )
  blocks = padded.reshape(len(padded) // tall, tall, -1, wide)
  return mean_stored(blocks, (1, 3))


def mean_stored(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
  """Returns means over axes of what is stored there; NaN where nothing is."""
  stored = np.isfinite(values)
  sums = np.where(stored, values, 0.0).sum(axis)
  counts = stored.sum(axis)
  return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _scale(cells: Sequence[np.ndarray]) -> LogNorm:
  values = np.concatenate([cell[cell > 0] for cell in cells])
  if not values.size:
    return LogNorm(0.1, 1.0)
  # A few chance values near zero would use up the scale: leave out 1 %.
  low, high = np.percentile(values, 1), values.max()
  return LogNorm(min(low, high / 10), high)


def _draw_plane(
  axes: Axes,
  values: np.ndarray,
  shape: tuple[int, ...],
  cell: tuple[int, int],
  scale: LogNorm,
) -> AxesImage:
  """Draws cells, or positions, over the [n, m] plane of `shape`."""
  bottom, right = np.multiply(values.shape, cell) - 0.5
  image = axes.imshow(
    # A stored zero has the lowest colour; only NaN is left out.
    np.maximum(values, scale.vmin or 0.0),
    cmap=_COLOURS,
    norm=scale,
    interpolation='nearest',
    extent=(-0.5, right, bottom, -0.5),
  )
  # One size whatever n and m: equal places are equal relative frequencies.
  axes.set(
    aspect='auto',
    facecolor=_NOT_STORED,
    xlim=(-0.5, shape[1] - 0.5),
    ylim=(shape[0] - 0.5, -0.5),
    xlabel='output frequency j',
    ylabel='input frequency i',
  )
  return image


def _draw_curves(axes: Axes, spectrum: np.ndarray, initial: np.ndarray) -> None:
  axes.set(
    xscale='log',
    yscale='log',
    xlabel='radial frequency √((i+½)²/n² + (j+½)²/m²)',
    ylabel='mean |coefficient|',
  )
  trained, before = _radial(spectrum), _radial(initial)
  axes.plot(*trained, color=_RED, linewidth=2, label='trained')
  axes.plot(*before, '--', color=_GREY, label='at initialization')
  _plain_numbers(axes.xaxis, [1])
  _plain_numbers(axes.yaxis, [1, 2, 5])
  axes.grid(alpha=0.3)


def _plain_numbers(axis: Axis, digits: Sequence[float]) -> None:
  """Labels a logarithmic axis 0.1, 0.2, 0.5 where the digits are 1, 2, 5."""
  axis.set_major_locator(LogLocator(subs=digits))
  axis.set_major_formatter('{x:g}')
  axis.set_minor_locator(NullLocator())


def _radial(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean radial frequency and mean value of rings of positions."""
  n, m = spectrum.shape
  radius = np.hypot(
    ((np.arange(n) + 0.5) / n)[:, None], ((np.arange(m) + 0.5) / m)[None, :]
  )
  stored = np.isfinite(spectrum)
  # Geometric rings: the few lowest frequencies are where most changes.
  edges = np.geomspace(radius[0, 0], math.sqrt(2), _RINGS + 1)
  ring = np.digitize(radius[stored], edges[1:-1])
  counts = np.bincount(ring, minlength=_RINGS)
  radii = np.bincount(ring, radius[stored], _RINGS)
  sums = np.bincount(ring, spectrum[stored], _RINGS)
  # An empty ring has no mean, and a logarithmic axis no zero.
  drawn = sums > 0
  return radii[drawn] / counts[drawn], sums[drawn] / counts[drawn]
