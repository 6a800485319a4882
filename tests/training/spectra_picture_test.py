"""The heat maps exist, and show what they are given."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from spectral_jax.training.spectra_picture import draw_spectra

_NEUTRAL = 0xD9 / 255  # of positions that are not stored


def _pixels(path: Path) -> np.ndarray:
  assert path.read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
  pixels = matplotlib.image.imread(path)
  assert min(pixels.shape[:2]) > 600
  assert max(pixels.shape[:2]) < 4000
  return pixels[..., :3]


def _neutral(pixels: np.ndarray) -> np.ndarray:
  return np.all(np.abs(pixels - _NEUTRAL) < 1e-3, axis=-1)


def test_positions_not_stored_are_neutral(tmp_path: Path) -> None:
  full = np.random.default_rng(0).uniform(0.1, 1.0, [96, 128])
  i, j = np.indices(full.shape)
  lowpass = np.where(i / 96 + j / 128 < 1, full, np.nan)
  lattice = np.where((i + j) % 2 == 0, full, np.nan)
  shares = {}
  for name, spectrum in [
    ('full', full),
    ('lowpass', lowpass),
    ('lattice', lattice),
  ]:
    path = tmp_path / f'{name}.png'
    draw_spectra({'qkv': spectrum[None]}, path, title=name)
    shares[name] = _neutral(_pixels(path)).mean()
  # The legend's patch alone; half of the plane; half of the corner.
  assert shares['full'] < 0.01
  assert 0.08 < shares['lowpass'] < 0.2
  assert 0.08 < shares['lattice'] < 0.2


def test_low_frequencies_are_top_left(tmp_path: Path) -> None:
  spectrum = np.full([64, 64], np.nan)
  spectrum[:32, :32] = 1.0
  draw_spectra({'out': spectrum[None]}, tmp_path / 'out.png', title='title')
  pixels = _pixels(tmp_path / 'out.png')
  neutral = _neutral(pixels[: len(pixels) // 2])  # the whole plane's panel
  rows, columns = np.nonzero(neutral)
  top, bottom, left, right = (
    rows.min(),
    rows.max(),
    columns.min(),
    columns.max(),
  )
  quarter = (bottom - top) // 4, (right - left) // 4
  assert not neutral[top + quarter[0], left + quarter[1]]
  assert neutral[top + quarter[0], right - quarter[1]]
  assert neutral[bottom - quarter[0], left + quarter[1]]
  assert neutral[bottom - quarter[0], right - quarter[1]]


def test_a_stored_zero_is_not_neutral(tmp_path: Path) -> None:
  spectrum = np.ones([16, 16])
  spectrum[8:] = 0.0
  draw_spectra({'out': spectrum[None]}, tmp_path / 'out.png', title='title')
  assert _neutral(_pixels(tmp_path / 'out.png')).mean() < 0.01


def test_cells_are_means_over_what_they_store(
  figures: list[Figure], tmp_path: Path
) -> None:
  # 130 columns make cells of 1 × 3, the last of which is one column wide.
  spectrum = np.full([4, 130], np.nan)
  spectrum[:, ::2] = 3.0
  spectrum[0, :3] = [1.0, np.nan, 2.0]
  spectrum[1, 3:6] = np.nan
  draw_spectra({'out': spectrum[None]}, tmp_path / 'out.png', title='title')
  plane, corner = figures[0].axes[:2]
  assert plane.get_title() == (
    'out, 4 × 130, 50% of positions\na cell: mean of the stored of 1 × 1 × 3'
  )
  cells = plane.images[0].get_array()
  expected = np.full([4, 44], 3.0)
  expected[0, 0] = 1.5
  expected[1, 1] = np.nan
  # Column 129 is odd: nothing is stored in the last cell.
  expected[:, 43] = np.nan
  np.testing.assert_array_equal(cells.filled(np.nan), expected)
  assert plane.get_xlim() == (-0.5, 129.5)
  assert plane.get_ylim() == (3.5, -0.5)
  assert corner.images[0].get_array().shape == (4, 32)


def test_curves_compare_training_with_initialization(
  figures: list[Figure], tmp_path: Path
) -> None:
  initial = np.full([32, 64], 0.5)
  trained = initial.copy()
  trained[:4, :8] = 2.0  # radial frequencies of at most √(1/8² + 1/8²)
  draw_spectra(
    {'mlp_in': trained[None]},
    tmp_path / 'x.png',
    title='title',
    initial={'mlp_in': initial[None], 'unused': initial[None]},
  )
  now, before = figures[0].axes[2].lines
  assert (now.get_label(), before.get_label()) == (
    'trained',
    'at initialization',
  )
  radius, means = now.get_data()
  assert radius[0] == pytest.approx(math.hypot(0.5 / 32, 0.5 / 64))
  assert np.all(means[radius < 0.1] == 2.0)
  assert np.all(means[radius > 0.25] == 0.5)
  np.testing.assert_allclose(before.get_ydata(), 0.5)


@pytest.mark.parametrize('value', [0.0, math.nan, math.inf, 1e-30])
def test_odd_values_are_drawn(tmp_path: Path, value: float) -> None:
  spectra = {
    'qkv': np.full([2, 8, 24], value, np.float32),
    'out': np.ones([2, 1, 1], np.float32),
    'mlp_in': np.full([2, 131, 67], value),
  }
  path = tmp_path / 'odd.png'
  draw_spectra(spectra, path, title='a $ title_', initial=spectra)
  _pixels(path)


def test_errors_name_the_argument(tmp_path: Path) -> None:
  one = {'out': np.ones([1, 4, 4])}
  with pytest.raises(ValueError, match='spectra: expected'):
    draw_spectra({}, tmp_path / 'x.png', title='title')
  with pytest.raises(ValueError, match=r'initial: expected .*out.*qkv'):
    draw_spectra(
      one, tmp_path / 'x.png', title='title', initial={'qkv': one['out']}
    )


def test_layers_are_averaged_and_the_first_is_shown(
  figures: list[Figure], tmp_path: Path
) -> None:
  # Two lattices that together cover the plane, each half of it.
  i, j = np.indices([8, 8])
  stack = np.where(
    (i + j)[None] % 2 == np.arange(2)[:, None, None],
    np.array([1.0, 3.0])[:, None, None],
    np.nan,
  )
  draw_spectra({'out': stack}, tmp_path / 'out.png', title='title')
  plane, corner = figures[0].axes[:2]
  assert plane.get_title().startswith('out, 8 × 8, 50% of positions')
  mean = plane.images[0].get_array().filled(np.nan)
  np.testing.assert_array_equal(mean, np.where((i + j) % 2 == 0, 1.0, 3.0))
  first = corner.images[0].get_array().filled(np.nan)
  np.testing.assert_array_equal(first, stack[0])
