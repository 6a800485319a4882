"""The loss curve of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _RED, _GREY = '#1f5fa8', '#c8401f', '#6b6b6b'
_DPI = 150


def draw_loss(
  rows: Sequence[Mapping[str, float]], path: Path, *, title: str
) -> None:
  """Draws training and validation loss against steps, as a PNG.

  Args:
    rows: Each with 'step' and, where measured, 'train_loss' and
      'validation_loss' in nats per token. Values that are not finite are left
      out and counted in the legend.
    path: The file to write.
    title: Stands above the curves.
  """
  figure = Figure(figsize=(9, 5.5), layout='constrained')
  axes = figure.subplots()
  steps, losses, lost = _points(rows, 'train_loss')
  if steps.size:
    smooth = _smooth(losses)
    label = f'training{lost}'
    if not np.array_equal(smooth, losses):
      axes.plot(
        steps, losses, color=_BLUE, alpha=0.3, linewidth=0.8, label=label
      )
      label = 'training, smoothed'
    axes.plot(
      steps,
      smooth,
      'o-',
      color=_BLUE,
      linewidth=2,
      markersize=4,
      markevery=[-1],  # the last one; it alone shows a curve of one point
      label=label,
    )
  steps, losses, lost = _points(rows, 'validation_loss')
  if steps.size:
    axes.plot(
      steps, losses, 'o-', color=_RED, markersize=5, label=f'validation{lost}'
    )
    _mark_best(axes, steps, losses)
  axes.set_title(title, parse_math=False)
  axes.set_xlabel('step')
  axes.set_ylabel('loss (nats per token)')
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(loc='upper right')
  else:
    axes.text(0.5, 0.5, 'no loss yet', ha='center', transform=axes.transAxes)
  figure.savefig(path, dpi=_DPI, format='png')


def _points(
  rows: Sequence[Mapping[str, float]], key: str
) -> tuple[np.ndarray, np.ndarray, str]:
  """Returns steps, finite values, and a remark on those that are not."""
  points = np.array(
    [(row['step'], row[key]) for row in rows if key in row], float
  ).reshape(-1, 2)
  finite = np.isfinite(points[:, 1])
  lost = len(points) - int(finite.sum())
  remark = f' ({lost} not finite, not drawn)' if lost else ''
  return points[finite, 0], points[finite, 1], remark


def _smooth(values: np.ndarray) -> np.ndarray:
  """Returns means over 1/25 of the curve around each point.

  At the start the window shrinks on both sides, so that the steep first part
  is not pulled down; at the end on one side, so that no noise is left.
  """
  places = np.arange(len(values))
  back = np.minimum(places, len(values) // 50)
  ahead = np.minimum(places[::-1], back)
  sums = np.concatenate([np.zeros(1), np.cumsum(values)])
  means: np.ndarray = sums[places + ahead + 1] - sums[places - back]
  means /= back + ahead + 1
  return means


def _mark_best(axes: Axes, steps: np.ndarray, losses: np.ndarray) -> None:
  best = int(np.argmin(losses))
  step, loss = steps[best], losses[best]
  with np.errstate(over='ignore'):  # a diverged run has infinite perplexity
    perplexity = np.exp(loss)
  axes.plot(step, loss, '*', color=_RED, markersize=15, markeredgecolor='white')
  # Keep the words inside the axes, on the side where there is room.
  late = step > np.mean(axes.get_xlim())
  high = loss > np.mean(axes.get_ylim())
  axes.annotate(
    f'best {loss:.3f} nats per token\n'
    f'perplexity {perplexity:.4g}, step {step:.0f}',
    (step, loss),
    xytext=(0, -45 if high else 45),
    textcoords='offset points',
    ha='right' if late else 'left',
    va='top' if high else 'bottom',
    arrowprops={'arrowstyle': '-', 'color': _GREY},
    bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8},
  )
