"""Which devices split what, and what cannot be split so."""

import re

import pytest

from spectral_jax.errors import UserError
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings


@pytest.mark.parametrize(
  ('settings', 'batch', 'heads', 'shape'),
  [
    ((-1, 1, 1), 16, 4, (8, 1, 1)),
    ((-1, 1, 1), 6, 4, (6, 1, 1)),
    ((2, -1, 1), 16, 4, (2, 4, 1)),
    ((2, 1, -1), 16, 4, (2, 1, 4)),
    ((1, 1, -1), 16, 6, (1, 1, 6)),
    ((-1, 2, 2), 16, 4, (2, 2, 2)),
    ((1, 1, 1), 16, 4, (1, 1, 1)),
  ],
)
def test_what_is_left_is_taken(
  settings: tuple[int, int, int],
  batch: int,
  heads: int,
  shape: tuple[int, int, int],
) -> None:
  mesh = make_mesh(MeshSettings(*settings), batch, heads)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == shape


@pytest.mark.parametrize(
  ('settings', 'batch', 'line'),
  [
    (
      (4, 4, 1),
      16,
      (
        'config.mesh.data and config.mesh.fsdp: expected at most the 8 devices '
        'there are, got 16.'
      ),
    ),
    (
      (2, 4, 1),
      12,
      (
        'config.mesh.data times config.mesh.fsdp: expected a divisor of the '
        'microbatch of 12 sequences, got 8.'
      ),
    ),
    (
      (1, 1, 8),
      16,
      'config.mesh.tensor: expected a divisor of the 4 heads, got 8.',
    ),
  ],
)
def test_what_cannot_be_split_is_told(
  settings: tuple[int, int, int], batch: int, line: str
) -> None:
  with pytest.raises(UserError, match=f'^{re.escape(line)}$'):
    make_mesh(MeshSettings(*settings), batch, heads=4)


@pytest.mark.parametrize(
  ('settings', 'line'),
  [
    ((0, 1, 1), 'data: expected -1 or at least 1, got 0.'),
    ((-1, -1, 1), 'data and fsdp: expected one -1, got -1.'),
    ((1, 1, -2), 'tensor: expected -1 or at least 1, got -2.'),
  ],
)
def test_settings_that_cannot_be(
  settings: tuple[int, int, int], line: str
) -> None:
  with pytest.raises(ValueError, match=f'^{re.escape(line)}$'):
    MeshSettings(*settings)
