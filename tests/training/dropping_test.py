"""The weakest weights are dropped, as many as the schedule says, for good."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.stored import layers_of
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import step
from spectral_jax.training.dropping import (
  drop_weakest,
  kept_schedule,
  lengthen_kept,
)
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.optimizer import make_optimizer, where_dropped
from spectral_jax.training.settings import MeshSettings, OptimizerSettings
from tests.training.optimizers import (
  ADAMW,
  STEPS,
  by_name,
  draw_like,
  layers,
  make_config,
)

DROPS = dataclasses.replace(ADAMW, drop_to=0.25, drop_until=0.5)
RUN = 20  # steps


def test_what_is_left_falls_by_the_cube_of_the_time_that_is_left() -> None:
  kept = kept_schedule(1000, begin=0.1, end=0.6, keep=0.2)
  assert [float(kept(at)) for at in (0, 100, 109)] == [1, 1, 1]
  for at in (110, 119):
    assert float(kept(at)) == pytest.approx(0.2 + 0.8 * (49 / 50) ** 3)
  assert float(kept(350)) == pytest.approx(0.2 + 0.8 / 8)
  assert [float(kept(at)) for at in (600, 1000)] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize('steps', [1, 2, 7, 150])
@pytest.mark.parametrize('end', [0.11, 0.5, 1.0])
def test_runs_of_any_length_end_with_what_is_to_be_left(
  steps: int, end: float
) -> None:
  kept = kept_schedule(steps, begin=0.1, end=end, keep=0.3)
  left = [float(kept(at)) for at in range(steps + 1)]
  assert left[0] == 1
  assert left[-1] == pytest.approx(0.3)
  assert all(after <= before for before, after in itertools.pairwise(left))


def by_hand(
  params: np.ndarray, updates: list[np.ndarray], left: list[int]
) -> np.ndarray:
  """Numbers of one layer, the weakest dropped one after the other."""
  there = np.ones(params.size, bool)
  for update, count in zip(updates, left, strict=True):
    params = np.where(there, params + update, 0)
    while there.sum() > count:
      strength = np.where(there, np.abs(params), np.inf)
      there[np.argmin(strength)] = False
    params = np.where(there, params, 0)
  return params


@pytest.mark.parametrize('stack', [0, 1])
def test_the_weakest_of_each_layer_are_dropped_and_stay_so(stack: int) -> None:
  draw = np.random.default_rng(0).standard_normal
  shape = (3, 4, 5) if stack else (4, 5)
  params = draw(shape, np.float32)
  updates = [0.5 * draw(shape, np.float32) for _ in range(6)]
  kept = kept_schedule(6, begin=0.1, end=0.9, keep=0.25)
  left = [20 - round((1 - float(kept(at))) * 20) for at in range(1, 7)]
  assert left == [20, 11, 7, 5, 5, 5]
  transform = drop_weakest(kept, {'w': stack, 'bias': None})
  tree = {'w': jnp.asarray(params), 'bias': jnp.zeros(2)}
  state = transform.init(tree)
  for update, count in zip(updates, left, strict=True):
    changes = {'w': jnp.asarray(update), 'bias': jnp.ones(2)}
    changes, state = jax.jit(transform.update)(changes, state, tree)
    tree = optax.apply_updates(tree, changes)
    rows = np.asarray(tree['w']).reshape(-1, 20)
    assert (rows != 0).sum(axis=1).tolist() == [count] * len(rows)
  expected = [
    by_hand(layer, [u.reshape(-1, 20)[i] for u in updates], left)
    for i, layer in enumerate(params.reshape(-1, 20))
  ]
  np.testing.assert_allclose(rows, expected, rtol=1e-6)
  np.testing.assert_array_equal(tree['bias'], [6, 6])


def test_of_equally_strong_weights_exactly_so_many_are_left() -> None:
  transform = drop_weakest(lambda at: jnp.where(at < 1, 1.0, 0.6), {'w': 0})
  params = {'w': jnp.array([1.0, -1, 3, -1, 1])}
  updates, _ = transform.update(
    {'w': jnp.zeros(5)}, transform.init(params), params
  )
  dropped = optax.apply_updates(params, updates)['w']
  assert int(jnp.sum(dropped != 0)) == 3
  assert dropped[2] == 3


def test_weights_that_begin_as_zeros_are_not_taken_for_dropped() -> None:
  transform = drop_weakest(lambda at: jnp.where(at < 2, 1.0, 0.5), {'w': 0})
  params, state = {'w': jnp.zeros(4)}, transform.init({'w': jnp.zeros(4)})
  for _ in range(3):
    updates, state = transform.update({'w': jnp.arange(4.0)}, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(params['w'], [0, 0, 6, 9])


def test_updates_grow_as_fewer_weights_take_them() -> None:
  transform = lengthen_kept(
    lambda at: jnp.where(at < 1, 1.0, 0.25), {'w': 1.0, 'm': 0.5, 'bias': 0.0}
  )
  ones = {'w': jnp.ones(2), 'm': jnp.ones(2), 'bias': jnp.ones(2)}
  state = transform.init(ones)
  first, state = transform.update(ones, state)
  second, _ = transform.update(ones, state)
  jax.tree.map(np.testing.assert_array_equal, first, ones)
  assert {name: float(u[0]) for name, u in second.items()} == {
    'w': 4,
    'm': 2,
    'bias': 1,
  }


@pytest.mark.parametrize(
  ('name', 'linear', 'power'),
  [
    ('adamw', LinearConfig(selection='strided', keep=1.0), 1.0),
    ('adamw', LinearConfig('dense'), 1.0),
    ('muon', LinearConfig(selection='strided', keep=0.5), 0.5),
    ('muon', LinearConfig(selection='random', keep=0.5), 1.0),  # by Adam
  ],
)
def test_what_is_left_moves_as_much_further_as_less_is_left(
  name: str, linear: LinearConfig, power: float
) -> None:
  plain = dataclasses.replace(ADAMW, name=name, weight_decay=0.0)
  drops = dataclasses.replace(DROPS, name=name, weight_decay=0.0)
  config = make_config(linear)
  params, gradients = draw_like(config, 0), draw_like(config, 1)
  updates = []
  for settings in (plain, drops):
    optimizer = make_optimizer(settings, STEPS, params, layers(config, params))
    update = jax.jit(optimizer.update)
    state, own = optimizer.init(params), params
    for _ in range(7):
      step, state = update(gradients, state, own)
      own = jax.tree.map(jnp.add, own, step)
    updates.append(by_name(step))
  kernels = [path for path in updates[0] if path.startswith('block_0/')]
  kernels = [p for p in kernels if p.endswith(('/kernel', '/coefficients'))]
  assert len(kernels) == 4
  for path, step in updates[0].items():
    longer = 4**power if path in kernels else 1.0
    moved = updates[1][path] != 0
    assert np.mean(moved) == (0.25 if path in kernels else 1.0)
    np.testing.assert_allclose(
      updates[1][path][moved], longer * step[moved], rtol=1e-4
    )


def trained(
  settings: OptimizerSettings,
  linear: LinearConfig,
  *,
  scan: bool = False,
  fsdp: int = 1,
) -> tuple[Any, list[int]]:
  """Parameters of a small model after a run, and how many are left by step."""
  config = TransformerConfig(
    context=8, width=16, layers=2, heads=2, linear=linear, scan=scan
  )
  model = Transformer(11, config)
  mesh = make_mesh(MeshSettings(data=1, fsdp=fsdp), 8, 2, jax.devices()[:fsdp])
  tokens = jnp.zeros((1, 8), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  optimizer = make_optimizer(settings, RUN, shapes, layers_of(model))
  state = step.make_initial_state(model, optimizer, mesh, seed=0)()
  train_step = step.make_train_step(
    model,
    optimizer,
    mesh,
    seed=0,
    takes_kernels=settings.gradients == 'kernels',
  )
  draw = np.random.default_rng(0)
  left = []
  for _ in range(RUN):
    batch = {
      name: jnp.asarray(draw.integers(0, 11, (8, 8)))
      for name in ('inputs', 'targets')
    }
    state, _ = train_step(state, batch)
    zeros = where_dropped(jax.device_get(state.params)).values()
    left.append(sum(int((~zero).sum()) for zero in zeros))
  return jax.device_get(state.params), left


ALL = LinearConfig(selection='strided', keep=1.0)
HALF = LinearConfig(selection='random', keep=0.5)
SIZE = 2 * (16 * 48 + 16 * 16 + 16 * 64 + 64 * 16)


@pytest.mark.parametrize(
  ('name', 'linear', 'gradients', 'stored', 'scan'),
  [
    ('adamw', ALL, 'kernels', SIZE, False),
    ('muon', ALL, 'coefficients', SIZE, True),
    ('adamw', HALF, 'coefficients', SIZE // 2, True),
    ('muon', LinearConfig('dense'), 'coefficients', SIZE, False),
  ],
  ids=['adamw-all', 'muon-all-scanned', 'adamw-half-scanned', 'muon-dense'],
)
def test_a_model_ends_with_a_quarter_of_what_its_layers_store(
  name: str, linear: LinearConfig, gradients: str, stored: int, *, scan: bool
) -> None:
  settings = dataclasses.replace(DROPS, name=name, gradients=gradients)
  params, left = trained(settings, linear, scan=scan)
  assert left[:2] == [stored] * 2
  assert stored > left[2] > left[5] > left[9] == stored // 4
  assert left[9:] == [stored // 4] * 11
  for path, zero in where_dropped(params).items():
    rows = zero.reshape(2, -1) if scan else zero.reshape(1, -1)
    assert ((~rows).sum(axis=1) == rows.shape[1] // 4).all(), path
  assert np.all(params['head']['kernel'] != 0)


def test_on_several_devices_the_same_are_dropped() -> None:
  settings = dataclasses.replace(DROPS, gradients='kernels')
  alone, left = trained(settings, ALL)
  split, left_split = trained(settings, ALL, fsdp=4)
  assert left == left_split
  for (path, a), b in zip(
    where_dropped(alone).items(), where_dropped(split).values(), strict=True
  ):
    # Sums in another order may change which of two all but equals is weaker.
    assert np.mean(a != b) < 0.02, path
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.median(np.abs(a - b)), 0, atol=1e-4
    ),
    alone,
    split,
  )
