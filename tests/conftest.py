"""Eight CPU devices, no silent rank promotion, one seed."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

import jax
import pytest
from matplotlib.figure import Figure

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
  """Catches the figures that are drawn, instead of their files."""
  caught: list[Figure] = []
  monkeypatch.setattr(
    Figure, 'savefig', lambda figure, *_, **__: caught.append(figure)
  )
  return caught
