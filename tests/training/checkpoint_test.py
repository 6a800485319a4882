"""Checkpoints come back bit by bit, and a damaged one is named."""

import functools
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from spectral_jax.errors import UserError
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import sharding
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings
from spectral_jax.training.step import TrainState, init_state

MODEL = Transformer(
  11, TransformerConfig(context=8, width=16, layers=1, heads=1)
)


@functools.cache
def _start(seed: int) -> TrainState:
  return jax.jit(lambda: init_state(MODEL, optax.adam(1e-3), seed))()


def _state(step: int, seed: int = 0) -> TrainState:
  state = _start(seed)
  return state.replace(step=state.step + step)


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
  losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: 2.6}
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest is None
    for step, loss in losses.items():
      checkpoints.save(_state(step), loss)
    assert checkpoints.steps == [20, 40, 50]
  with Checkpoints(tmp_path) as reopened:
    assert reopened.steps == [20, 40, 50]
    assert (reopened.latest, reopened.best) == (50, 20)


@pytest.mark.parametrize(
  ('saved_on', 'restored_on'),
  [
    ((1, 1, 1), (8, 1, 1)),
    ((1, 8, 1), (2, 2, 2)),
    ((2, 2, 2), (1, 1, 8)),
    ((1, 2, 4), (1, 1, 1)),
  ],
)
def test_a_state_comes_back_on_any_mesh(
  tmp_path: Path,
  saved_on: tuple[int, int, int],
  restored_on: tuple[int, int, int],
) -> None:
  meshes = [
    make_mesh(MeshSettings(*axes), 8, 8) for axes in (saved_on, restored_on)
  ]
  state = _state(7)
  shardings = [sharding.of_state(state, mesh) for mesh in meshes]
  state = jax.device_put(state, shardings[0])
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state, 1.0)
  like = jax.eval_shape(lambda: _state(0, seed=1))
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(7, like, meshes[1])
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  for leaf, expected in zip(
    jax.tree.leaves(restored), jax.tree.leaves(shardings[1]), strict=True
  ):
    assert leaf.sharding == expected


def test_a_broken_step_is_named(tmp_path: Path) -> None:
  mesh = make_mesh(MeshSettings(1, 1), 8)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(_state(7), 1.0)
  for path in (tmp_path / 'checkpoints' / '7' / 'default').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(
      UserError, match=r'checkpoints/7: cannot be read .*move'
    ) as e,
  ):
    checkpoints.restore(7, _state(0), mesh)
  assert '\n' not in str(e.value)
