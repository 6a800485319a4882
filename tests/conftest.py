"""Eight CPU devices, no silent rank promotion, one seed."""

import gc
import os
import random
import signal
import tempfile
from pathlib import Path

from tests.xla_flags import xla_flags

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + xla_flags(8)
# What was compiled is kept. XLA complains, without need, when it reads it back.
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# Where in the code an operation is from, compiled programs need not know here.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'
# On cores that are shared, BLAS threads wait for each other: fifty times as
# long for a stack of small products.
os.environ['OPENBLAS_NUM_THREADS'] = '1'

import hypothesis
import jax
import pytest
from matplotlib.figure import Figure

from tests.trainer import trained

# Tracing makes many objects that live on; to look among them for garbage often
# takes a fifteenth of the tests' time.
gc.set_threshold(100_000, 50, 1000)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Each process of the tests has a folder of its own: JAX writes in place.
_COMPILED = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _COMPILED.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.08)
# The same examples each time, and no folder .hypothesis.
os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = _COMPILED.name
hypothesis.settings.register_profile(
  'same', derandomize=True, deadline=None, database=None, max_examples=60
)
hypothesis.settings.load_profile('same')
# A shell that starts the tests in the background has them, and the commands
# that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
