"""The train step learns, accumulates, and is the same on any mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from spectral_jax.core import gemm
from spectral_jax.core.platform import planned_platform
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.stored import layers_of
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import sharding
from spectral_jax.training.kernels import on_kernels
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings
from spectral_jax.training.step import (
  TrainState,
  make_evaluation_step,
  make_initial_state,
  make_train_step,
)

CONFIG = TransformerConfig(
  context=16, width=32, layers=1, heads=2, linear=LinearConfig()
)
MODEL = Transformer(11, CONFIG)
# SGD shows a gradient as it is; Adam's first step would hide its scale.
SGD = optax.sgd(0.1)


def _mesh(data: int, fsdp: int = 1) -> Mesh:
  return make_mesh(MeshSettings(data, fsdp), 8)


def _batch(mesh: Mesh) -> dict[str, jax.Array]:
  draw = np.random.default_rng(0)
  tokens = draw.integers(11, size=(8, 17), dtype=np.int32)
  batch = {'inputs': tokens[:, :-1], 'targets': tokens[:, 1:]}
  return sharding.put_batch(batch, mesh)


def _start(model: Transformer, mesh: Mesh) -> TrainState:
  return make_initial_state(model, SGD, mesh, seed=0)()


@functools.cache  # compiling is most of it
def _steps(
  devices: int = 1,
  accumulate: int = 1,
  model: Transformer = MODEL,
  seed: int = 0,
) -> tuple[TrainState, list[dict[str, Any]]]:
  mesh = _mesh(devices)
  step = make_train_step(model, SGD, mesh, seed=seed, accumulate=accumulate)
  state = _start(model, mesh)
  history = []
  for _ in range(5):
    state, metrics = step(state, _batch(mesh))
    history.append(jax.device_get(metrics))
  return state, history


def _assert_close(one: TrainState, other: TrainState) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    jax.device_get(one.params),
    jax.device_get(other.params),
  )


def test_it_learns_a_batch_by_heart() -> None:
  state, history = _steps()
  losses = [metrics['train_loss'] for metrics in history]
  assert losses[0] == pytest.approx(np.log(11), abs=0.8)
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] < losses[0] - 0.05
  assert int(state.step) == 5


def test_the_metrics_are_those_of_the_gradient() -> None:
  mesh = _mesh(1)
  state = _start(MODEL, mesh)
  batch = _batch(mesh)

  def loss_fn(params: Any) -> jax.Array:
    logits = MODEL.apply({'params': params}, batch['inputs'])
    likelihood = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(
      likelihood, batch['targets'][..., None], axis=-1
    )
    return -jnp.mean(picked)

  loss, grads = jax.jit(jax.value_and_grad(loss_fn))(state.params)
  before = jax.device_get(state.params)
  after, metrics = make_train_step(MODEL, SGD, mesh, seed=0)(state, batch)
  assert float(metrics['train_loss']) == pytest.approx(float(loss), rel=1e-5)
  assert float(metrics['gradient_norm']) == pytest.approx(
    float(optax.tree.norm(grads)), rel=1e-4
  )
  jax.tree.map(
    lambda new, old, grad: np.testing.assert_allclose(
      new, old - 0.1 * grad, rtol=1e-4, atol=1e-6
    ),
    after.params,
    before,
    grads,
  )


@pytest.mark.parametrize('accumulate', [2, 8])
def test_microbatches_give_the_same_step(accumulate: int) -> None:
  whole, history = _steps()
  parts, parts_history = _steps(accumulate=accumulate)
  _assert_close(whole, parts)
  assert parts_history[0]['train_loss'] == pytest.approx(
    history[0]['train_loss'], rel=1e-5
  )


def test_devices_and_microbatches_give_the_same_step() -> None:
  one, _ = _steps()
  many, _ = _steps(devices=4, accumulate=2)
  _assert_close(one, many)
  leaf = jax.tree.leaves(many.params)[0]
  assert len(leaf.sharding.device_set) == 4


@pytest.mark.parametrize(
  'model',
  [
    MODEL,
    pytest.param(
      MODEL.copy(config=dataclasses.replace(CONFIG, layers=2, scan=True)),
      marks=pytest.mark.long,
    ),
  ],
  ids=['blocks', 'scan'],
)
def test_gradients_of_kernels_project_onto_those_of_coefficients(
  model: Transformer,
) -> None:
  expected, _ = _steps(model=model)
  on_dense = on_kernels(SGD, layers_of(model))
  mesh = _mesh(2, 2)
  step = make_train_step(
    model, on_dense, mesh, seed=0, accumulate=2, takes_kernels=True
  )
  state = make_initial_state(model, on_dense, mesh, seed=0)()
  for _ in range(5):
    state, _ = step(state, _batch(mesh))
  _assert_close(state, expected)


@pytest.mark.parametrize('takes_kernels', [False, True])
@pytest.mark.parametrize('method', ['gemm', 'idctn'])
def test_kernels_are_rebuilt_for_the_mesh_and_by_the_layer_s_method(
  takes_kernels: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  linear = LinearConfig(method=method)
  model = MODEL.copy(config=dataclasses.replace(CONFIG, linear=linear))
  layers = layers_of(model)  # traced here, and remembered
  optimizer = on_kernels(SGD, layers) if takes_kernels else SGD
  mesh = _mesh(1)
  state = make_initial_state(model, optimizer, mesh, seed=0)()
  platforms = []

  def note() -> str:
    platforms.append(planned_platform())
    return 'cpu'

  monkeypatch.setattr(gemm, 'planned_platform', note)
  monkeypatch.setattr(sharding, 'platform', lambda _: 'tpu')
  step = make_train_step(
    model, optimizer, mesh, seed=0, accumulate=2, takes_kernels=takes_kernels
  )
  program = str(step.trace(state, _batch(mesh)).jaxpr)
  assert set(platforms) <= {'tpu'}
  assert bool(platforms) == (method == 'gemm' or takes_kernels)
  assert ('fft[' in program) == (method == 'idctn')


def test_the_state_is_donated() -> None:
  mesh = _mesh(1)
  state = _start(MODEL, mesh)
  make_train_step(MODEL, SGD, mesh, seed=0)(state, _batch(mesh))
  coefficients = state.params['block_0']['qkv']['coefficients']
  assert coefficients.is_deleted()


def test_dropout_follows_from_seed_and_step() -> None:
  dropping = MODEL.copy(
    config=TransformerConfig(
      context=16, width=32, layers=1, heads=2, dropout=0.5
    )
  )
  one, history = _steps(model=dropping)
  same, _ = _steps.__wrapped__(model=dropping)  # not from the cache
  other, _ = _steps(model=dropping, seed=1)
  jax.tree.map(np.testing.assert_array_equal, one.params, same.params)
  head = one.params['head']['kernel']
  assert not np.allclose(head, other.params['head']['kernel'], atol=1e-5)
  _, plain = _steps()
  assert history[0]['train_loss'] != plain[0]['train_loss']


@pytest.mark.parametrize('devices', [1, 8])
def test_evaluation_leaves_padding_out(devices: int) -> None:
  mesh = _mesh(devices)
  params = _start(MODEL, mesh).params
  step = make_evaluation_step(MODEL, mesh)
  batch = _batch(mesh)
  weights = np.ones((8, 16), np.float32)
  loss, count = step(
    params, batch | sharding.put_batch({'weights': weights}, mesh)
  )
  assert float(count) == 128
  weights[3:] = 0
  some, count = step(
    params, batch | sharding.put_batch({'weights': weights}, mesh)
  )
  assert float(count) == 48
  logits = jax.jit(MODEL.apply)({'params': params}, batch['inputs'][:3])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['targets'][:3]
  )
  assert float(some) == pytest.approx(float(losses.sum()), rel=1e-4)
  assert float(loss) > float(some)


@pytest.mark.parametrize('devices', [1, 4])
def test_a_bad_step_changes_what_counts_and_no_more(devices: int) -> None:
  mesh, schedule = _mesh(devices), optax.linear_schedule(1e-3, 0.0, 10)
  optimizer = optax.chain(
    optax.scale_by_adam(), optax.scale_by_learning_rate(schedule)
  )
  step = make_train_step(MODEL, optimizer, mesh, seed=0, skip_bad=True)
  state = make_initial_state(MODEL, optimizer, mesh, seed=0)()
  batch = _batch(mesh)
  state, metrics = step(state, batch)
  assert float(metrics['skipped']) == 0
  before = jax.device_get(state)
  spoilt = batch | {'inputs': batch['inputs'] + 1000}  # no such embeddings
  for inputs, limit, is_bad in (
    (spoilt, np.inf, True),
    (batch, float(metrics['train_loss']) / 2, True),
    (batch, float(metrics['train_loss']) * 2, False),
  ):
    state, metrics = step(state, inputs, limit)
    after = jax.device_get(state)
    assert float(metrics['skipped']) == is_bad
    assert after.step == before.step + 1
    adam, scheduled = after.opt_state
    assert scheduled.count == before.opt_state[1].count + 1
    same = jax.tree.map(
      np.array_equal,
      (after.params, adam),
      (before.params, before.opt_state[0]),
    )
    assert set(jax.tree.leaves(same)) == {is_bad}
    before = after
  norms = metrics['gradient_norms']
  assert len(norms) == len(jax.tree.leaves(state.params))
  assert float(jnp.linalg.norm(norms)) == pytest.approx(
    float(metrics['gradient_norm']), rel=1e-5
  )
