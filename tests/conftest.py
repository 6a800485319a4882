"""Eight CPU devices, no silent rank promotion, one seed."""

import os
import random
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
# Compiling is most of the tests' time; not optimising halves it.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  + ' --xla_backend_optimization_level=0'
)
# On cores that are shared, BLAS threads wait for each other: fifty times as
# long for a stack of small products.
os.environ['OPENBLAS_NUM_THREADS'] = '1'

import jax
import pytest
from matplotlib.figure import Figure

from tests.trainer import trained

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
  """Catches the figures that are drawn, instead of their files."""
  caught: list[Figure] = []
  monkeypatch.setattr(
    Figure, 'savefig', lambda figure, *_, **__: caught.append(figure)
  )
  return caught


@pytest.fixture(scope='session')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of a dozen words, which a small model learns in a few steps."""
  draw = random.Random(0)
  words = 'the quick brown fox jumps over a lazy dog and runs away'
  path = tmp_path_factory.mktemp('text') / 'words.txt'
  path.write_text(' '.join(draw.choices(words.split(), k=4000)))
  return path


@pytest.fixture(scope='session')
def finished(
  text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
  """A run from start to end: its workdir, not to be changed, and its output."""
  return trained('finished', text, tmp_path_factory)
