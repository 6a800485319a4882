"""Pictures of a table: loss by size, by step and by stable rank."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Scores, best_dense
from benchmarks.rows import Row
from benchmarks.table import Table

# Okabe and Ito's colours, which the colour-blind tell apart; and a marker each.
_STYLES = {
  'dense': ('#000000', '*'),
  'lowpass': ('#0072B2', 'o'),
  'block': ('#56B4E9', 's'),
  'random': ('#D55E00', '^'),
  'band': ('#CC79A7', 'D'),
  'strided': ('#009E73', 'v'),
  'low rank': ('#E69F00', 'P'),
}
_DPI = 150
_LOSS = 'validation loss (nats per token)'
_SMOOTHED = 5  # rows of a log in each point of a training curve


def draw_sizes(table: Table, found: Mapping[str, Scores], path: Path) -> None:
  """Draws the loss against stored parameters, or against the learning rate.

  Args:
    table: a table of which a row was run.
    found: the figures of its rows, by name.
    path: the PNG to write.
  """
  figure = Figure(figsize=(9, 6), layout='constrained')
  axes = figure.subplots()
  by_rate = table.against == 'rate'

  def place(score: Scores) -> float:
    return score.row.rate if by_rate else score.parameters

  for name, group in _groups(table, found).items():
    points = sorted(group, key=place)
    kind, dashes, filled = _kind(points[0].row), '-', 'full'
    if by_rate:
      dashes = _dashes(name, kind, found)
    elif name != kind:  # in another basis, or separate
      dashes, filled = '--', 'bottom'
    color, marker = _STYLES[kind]
    axes.errorbar(
      [place(point) for point in points],
      [point.loss for point in points],
      yerr=[point.spread or 0.0 for point in points],
      color=color,
      marker=marker,
      markersize=12 if marker == '*' else 7,
      fillstyle=filled,
      markerfacecoloralt='white',
      linestyle=dashes,
      capsize=3,
      label=name,
    )
  _draw_paper(axes, table, found)
  dense = best_dense(found)
  if dense and not by_rate:
    axes.axhline(dense.loss, color='black', linewidth=0.8, linestyle=':')
  axes.set_xscale('log')
  ticks = sorted({place(score) for score in found.values()})
  spread = _spread_ticks(ticks)
  axes.set_xticks(spread, [f'{t:g}' if by_rate else f'{t:,}' for t in spread])
  axes.minorticks_off()
  axes.set_xlabel(
    'peak learning rate (log)' if by_rate else 'stored parameters (log)'
  )
  axes.set_ylabel(_LOSS)
  _finish(figure, axes, table, path)


def draw_ranks(table: Table, found: Mapping[str, Scores], path: Path) -> None:
  """Draws the loss against the stable rank of the rows that have one.

  The area of a mark is in proportion to the square root of the parameters that
  the row stores; a line joins a family by their number.
  """
  figure = Figure(figsize=(9, 6), layout='constrained')
  axes = figure.subplots()
  for name, group in _groups(table, found).items():
    points = [
      (score.parameters, score.stable_rank, score.loss)
      for score in group
      if score.stable_rank is not None
    ]
    if not points:
      continue
    parameters, ranks, losses = np.transpose(sorted(points))
    kind = _kind(group[0].row)
    color, marker = _STYLES[kind]
    axes.plot(ranks, losses, color=color, linewidth=0.8, alpha=0.4)
    axes.scatter(
      ranks,
      losses,
      s=100 * np.sqrt(parameters / table.dense_parameters),
      marker=marker,
      edgecolors=color,
      facecolors=color if name == kind else 'white',
      label=name,
      zorder=2,
    )
  axes.set_xlabel(
    'stable rank, mean of the linear layers; the smaller a mark, the fewer '
    'parameters'
  )
  axes.set_ylabel(_LOSS)
  _finish(figure, axes, table, path)


def draw_steps(
  table: Table,
  found: Mapping[str, Scores],
  logs: Mapping[str, Sequence[Mapping[str, float]]],
  path: Path,
) -> None:
  """Draws training (pale) and validation loss by step, a panel a family.

  Args:
    table: a table of which a row was run.
    found: the figures of its rows, by name.
    logs: the rows of metrics.jsonl of one run of each of them, by name.
    path: the PNG to write.
  """
  groups = _groups(table, found)
  dense = best_dense(found)
  if len(groups) > 1 and table.against != 'rate':
    groups.pop('dense', None)  # it is in each panel
  across = min(3, len(groups))
  down = math.ceil(len(groups) / across)
  figure = Figure(
    figsize=(max(6, 4.5 * across), 3.6 * down), layout='constrained'
  )
  panels = figure.subplots(
    down, across, sharex=True, sharey=True, squeeze=False
  ).flat
  for panel, (name, group) in zip(panels, groups.items(), strict=False):
    colors = mpl.colormaps['viridis'](np.linspace(0.1, 0.85, len(group)))
    for score, color in zip(group, colors, strict=True):
      label = f'{score.row.rate:g}' if table.against == 'rate' else ''
      _curve(panel, logs[score.row.name], color, label or score.row.label)
    if dense and dense not in group:
      _curve(panel, logs[dense.row.name], 'black', dense.row.label)
    panel.set_title(name, fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
  for panel in list(panels):
    panel.set_axis_off()
  figure.suptitle(_title(table), parse_math=False, fontsize=11, wrap=True)
  figure.supxlabel('step')
  figure.supylabel('loss (nats per token); pale: training')
  _zoom(figure.axes[0], table, logs)
  figure.savefig(path, dpi=_DPI, format='png')


def _groups(
  table: Table, found: Mapping[str, Scores]
) -> dict[str, list[Scores]]:
  """The rows that a line joins, by the line's name."""
  key: Callable[[Row], str] = (
    (lambda row: row.label)
    if table.against == 'rate'
    else (lambda row: row.family)
  )
  groups: dict[str, list[Scores]] = {}
  for score in found.values():
    groups.setdefault(key(score.row), []).append(score)
  return groups


def _kind(row: Row) -> str:
  return row.family.split(',')[0]


def _dashes(name: str, kind: str, found: Mapping[str, Scores]) -> str:
  """Another dash for each line of a kind."""
  rows = [score.row for score in found.values()]
  labels = dict.fromkeys(row.label for row in rows if _kind(row) == kind)
  return ('-', '--', ':', '-.')[list(labels).index(name) % 4]


def _draw_paper(axes: Axes, table: Table, found: Mapping[str, Scores]) -> None:
  """The paper's losses, as open markers over our rows' parameters."""
  label: str | None = "open: the paper's"
  for name in table.paper.values if table.paper else ():
    if table.paper and name in found:
      color, marker = _STYLES[_kind(found[name].row)]
      axes.plot(
        found[name].parameters,
        table.paper.loss(name),
        marker=marker,
        markersize=12,
        color=color,
        markerfacecolor='none',
        linestyle='',
        label=label,
      )
      label = None


def _spread_ticks(ticks: Sequence[float]) -> list[float]:
  """The ticks that stand a quarter apart, so that words do not meet."""
  spread: list[float] = []
  for tick in ticks:
    if not spread or tick > 1.25 * spread[-1]:
      spread.append(tick)
  return spread


def _curve(
  axes: Axes, log: Sequence[Mapping[str, float]], color: object, label: str
) -> None:
  training = [(row['step'], row['train_loss']) for row in log]
  whole = len(training) - len(training) % _SMOOTHED
  if whole:
    steps, losses = np.transpose(training[:whole]).reshape(2, -1, _SMOOTHED)
    axes.plot(steps.mean(1), losses.mean(1), color=color, alpha=0.35)
  points = [
    (row['step'], row['validation_loss'])
    for row in log
    if 'validation_loss' in row
  ]
  if points:
    axes.plot(*np.transpose(points), 'o-', color=color, ms=4, label=label)


def _zoom(
  axes: Axes,
  table: Table,
  logs: Mapping[str, Sequence[Mapping[str, float]]],
) -> None:
  """Leaves out the steep first tenth, beside which nothing can be told."""
  shown = [
    row[key]
    for log in logs.values()
    for row in log
    for key in ('train_loss', 'validation_loss')
    if key in row and row['step'] >= 0.1 * table.steps
  ]
  if shown:
    axes.set_ylim(min(shown) - 0.05, max(shown) + 0.05)


def _title(table: Table) -> str:
  return f'{table.title}; {table.steps:,} steps'


def _finish(figure: Figure, axes: Axes, table: Table, path: Path) -> None:
  axes.grid(alpha=0.3)
  figure.legend(loc='outside right center', fontsize=9)
  figure.suptitle(_title(table), parse_math=False, fontsize=11, wrap=True)
  figure.savefig(path, dpi=_DPI, format='png')
