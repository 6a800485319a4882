"""The loss curve exists, and shows what it is given."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from spectral_jax.training.loss_picture import draw_loss


@pytest.mark.parametrize(
  'rows',
  [
    [],
    [{'step': 1, 'train_loss': 3.0}],
    [{'step': 1, 'validation_loss': 3.0}],
    [{'step': 1, 'train_loss': 3.0}, {'step': 2, 'validation_loss': 900.0}],
    [{'step': 1, 'train_loss': math.nan, 'validation_loss': math.inf}],
    [{'step': 1, 'learning_rate': 0.1}],
  ],
)
def test_loss_is_drawn_from_few_or_broken_rows(
  tmp_path: Path, rows: list[dict[str, float]]
) -> None:
  draw_loss(rows, tmp_path / 'loss.png', title='a $ title_')
  assert (tmp_path / 'loss.png').read_bytes().startswith(b'\x89PNG')


def test_loss_curves_hold_the_rows(
  figures: list[Figure], tmp_path: Path
) -> None:
  rows = [
    {'step': step, 'train_loss': 5.0 - step / 100 + (-1) ** step}
    for step in range(200)
  ]
  rows += [{'step': 200, 'train_loss': math.inf}]
  rows += [{'step': 100, 'validation_loss': 2.0}]
  rows += [{'step': 200, 'validation_loss': 2.5}]
  draw_loss(rows, tmp_path / 'loss.png', title='title')
  (axes,) = figures[0].axes
  raw, smooth, validation, best = axes.lines
  assert raw.get_label() == 'training (1 not finite, not drawn)'
  assert len(raw.get_xdata()) == 200
  trend = 5.0 - np.arange(200) / 100
  np.testing.assert_allclose(smooth.get_ydata()[10:], trend[10:], atol=0.2)
  np.testing.assert_array_equal(validation.get_ydata(), [2.0, 2.5])
  assert best.get_xydata().tolist() == [[100.0, 2.0]]
  (note,) = axes.texts
  assert note.get_text() == (
    'best 2.000 nats per token\nperplexity 7.389, step 100'
  )
  assert axes.get_ylabel() == 'loss (nats per token)'


def test_what_is_too_short_to_smooth_is_drawn_once(
  figures: list[Figure], tmp_path: Path
) -> None:
  rows = [{'step': step, 'train_loss': 5.0 - step} for step in range(5)]
  draw_loss(rows, tmp_path / 'loss.png', title='title')
  (curve,) = figures[0].axes[0].lines
  assert curve.get_label() == 'training'
  assert curve.get_ydata().tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_smoothing_leaves_a_straight_start_straight(
  figures: list[Figure], tmp_path: Path
) -> None:
  rows = [{'step': step, 'train_loss': -step} for step in range(500)]
  draw_loss(rows, tmp_path / 'loss.png', title='title')
  raw, smooth = figures[0].axes[0].lines
  np.testing.assert_allclose(
    smooth.get_ydata()[:480], raw.get_ydata()[:480], atol=1e-9
  )
