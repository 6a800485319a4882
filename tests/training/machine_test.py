"""Memory that a CPU computes in is kept, and where it is not."""

import ctypes
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from spectral_jax.training.machine import keep_memory
from tests.trainer import run, small

# Prints how many pages the system clears for ten runs of a program that takes
# 64 MiB at a time: of what is less than 32, glibc itself learns to keep it.
_TEN_RUNS = """
import resource
from spectral_jax.training.machine import keep_memory
keep_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: jax.lax.optimization_barrier(2 * x).sum())
x = jnp.ones((4096, 4096))
def pages_cleared_so_far():
  for _ in range(10):
    program(x).block_until_ready()
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pages_cleared_so_far()
before = pages_cleared_so_far()
print(pages_cleared_so_far() - before)
"""
# With nothing in it, so that glibc does as it does by default.
_TOLD = {'GLIBC_TUNABLES': ''}

pytestmark = pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc',
  reason='memory is asked of another C library',
)


@pytest.fixture(autouse=True)
def _small_pages_and_nothing_told(
  monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
  for name in list(os.environ):
    if name.startswith(('MALLOC_', 'GLIBC_TUNABLES')):
      monkeypatch.delenv(name)
  # Of large pages so few are cleared that they could not be told from others.
  libc, thp_disable = ctypes.CDLL(None), 41
  libc.prctl(thp_disable, 1, 0, 0, 0)
  yield
  libc.prctl(thp_disable, 0, 0, 0, 0)


@pytest.mark.parametrize('told', [{}, _TOLD])
def test_memory_is_kept_unless_told_otherwise(
  told: dict[str, str], tmp_path: Path
) -> None:
  ran = run('-c', _TEN_RUNS, tmp=tmp_path, **told)
  assert ran.returncode == 0, ran.stderr
  pages = 10 * 64 * 2**20 / resource.getpagesize()
  assert (int(ran.stdout) < pages / 4) == (not told)


def test_malloc_stays_as_it_is_with_several_devices(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  said: list[tuple[int, int]] = []
  libc = SimpleNamespace(mallopt=lambda *values: said.append(values))
  monkeypatch.setattr(ctypes, 'CDLL', lambda _: libc)
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  keep_memory()
  assert not said
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  keep_memory()
  assert said


def test_compiling_ahead_asks_for_no_devices(tmp_path: Path) -> None:
  script = """
import runpy, sys
from jax._src import xla_bridge
from spectral_jax.training import aot
aot.compile_ahead = lambda *_: print(xla_bridge.backends_are_initialized())
sys.argv = ['train.py', '--mode=compile']
runpy.run_path('train.py', run_name='__main__')
"""
  ran = run('-c', script, tmp=tmp_path)
  assert ran.stdout == 'False\n', ran.stderr


@pytest.mark.long
def test_train_keeps_the_memory_of_its_steps(
  text: Path, tmp_path: Path
) -> None:
  def pages_cleared(name: str, **surroundings: str) -> int:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    sizes = (
      'model.width=64',
      'model.context=64',
      'train.batch_size=64',
      'train.steps=40',
    )
    arguments = [f'--config.{size}' for size in sizes]
    arguments = small(text, tmp_path / name, *arguments)
    ran = run('train.py', *arguments, tmp=text.parent, **surroundings)
    assert ran.returncode == 0, ran.stderr
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before

  assert pages_cleared('kept') < pages_cleared('told', **_TOLD) / 2
