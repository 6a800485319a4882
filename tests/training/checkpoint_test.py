"""Checkpoints come back bit by bit, and a damaged one is named."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from spectral_jax.errors import UserError
from spectral_jax.training import sharding
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings
from tests.training.states import train_state


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
  losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: 2.6}
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest is None
    for step, loss in losses.items():
      checkpoints.save(train_state(step), loss)
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
  state = train_state(7)
  shardings = [sharding.of_state(state, mesh) for mesh in meshes]
  state = jax.device_put(state, shardings[0])
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state, 1.0)
  like = train_state(0, seed=1)
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
    checkpoints.save(train_state(7), 1.0)
  for path in (tmp_path / 'checkpoints' / '7' / 'default').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with (
    Checkpoints(tmp_path) as checkpoints,
    pytest.raises(
      UserError, match=r'checkpoints/7: damaged \(default/.* has 0 bytes.*sets'
    ) as e,
  ):
    checkpoints.restore(7, train_state(0), mesh)
  assert '\n' not in str(e.value)


def test_a_step_of_an_older_version_is_taken_as_it_is(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  manager = ocp.CheckpointManager(
    tmp_path / 'checkpoints',
    options=ocp.CheckpointManagerOptions(
      best_fn=lambda metrics: metrics['validation_loss'],
      enable_async_checkpointing=False,
    ),
  )
  manager.save(
    7,
    args=ocp.args.StandardSave(train_state(7)),
    metrics={'validation_loss': 1.5},
  )
  manager.close()
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.recover() == checkpoints.best == 7
    assert 'checkpoint 7: it has no checksums' in capsys.readouterr().out
    mesh = make_mesh(MeshSettings(1, 1), 8)
    restored = checkpoints.restore(7, train_state(0, seed=1), mesh)
    jax.tree.map(np.testing.assert_array_equal, restored, train_state(7))
    for step, loss in ((8, 1.6), (9, 1.7), (10, 1.4)):
      checkpoints.save(train_state(step), loss)
    assert checkpoints.steps == [9, 10]
