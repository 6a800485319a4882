"""The step is the same on any mesh, and moves no more than what is stored."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest

from benchmarks.collectives import CONTENDERS, block_bytes
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.stored import layers_of
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import sharding
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.settings import MeshSettings, OptimizerSettings
from spectral_jax.training.step import (
  TrainState,
  make_initial_state,
  make_train_step,
)

DENSE = LinearConfig('dense')
STRIDED = LinearConfig(selection='strided')
ODD = LinearConfig(selection='random', keep=0.377)  # 386 of 1,024
OPTIMIZER = OptimizerSettings(
  'adamw', 0.01, 0.02, 'coefficients', 2, 0.1, 0.1, 0.9, 0.99, 1.0
)


def optimizer_settings(muon: str) -> OptimizerSettings:
  """Muon of the gradients that are named, or AdamW where none are."""
  if not muon:
    return OPTIMIZER
  return dataclasses.replace(OPTIMIZER, name='muon', gradients=muon)


@functools.cache
def initial(
  model: Transformer, muon: str
) -> tuple[TrainState, optax.GradientTransformation]:
  """A state on the host, and its optimizer; initialisers compile slowly."""
  tokens = np.zeros((1, 16), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes
  )
  settings = optimizer_settings(muon)
  optimizer = make_optimizer(settings, 5, params, layers_of(model))
  state = TrainState(np.int32(0), params, jax.jit(optimizer.init)(params))
  return jax.device_get(state), optimizer


def five_steps(
  mesh_shape: tuple[int, int, int],
  linear: LinearConfig = STRIDED,
  muon: str = '',
  **fields: Any,
) -> tuple[TrainState, list[float]]:
  return _five_steps(mesh_shape, linear, muon, **fields)


@functools.cache
def _five_steps(
  mesh_shape: tuple[int, int, int],
  linear: LinearConfig,
  muon: str,
  accumulate: int = 1,
  rebuild_every: str = 'step',
  **config_fields: Any,
) -> tuple[TrainState, list[float]]:
  config = TransformerConfig(
    context=16,
    width=32,
    heads=8,
    dropout=0.1,
    linear=linear,
    **{'layers': 1, 'qkv': 'separate', **config_fields},
  )
  model = Transformer(11, config)
  mesh = make_mesh(MeshSettings(*mesh_shape), 8 // accumulate, 8)
  state, optimizer = initial(model, muon)
  shardings = sharding.of_state(state, mesh)
  state = jax.device_put(state, shardings)
  drawn = np.random.default_rng(0).integers(11, size=(8, 17), dtype=np.int32)
  batch = {'inputs': drawn[:, :-1], 'targets': drawn[:, 1:]}
  step = make_train_step(
    model,
    optimizer,
    mesh,
    seed=0,
    accumulate=accumulate,
    rebuild_every=rebuild_every,
    takes_kernels=muon == 'kernels',
  )
  losses = []
  for _ in range(5):
    state, metrics = step(state, sharding.put_batch(batch, mesh))
    losses.append(float(metrics['train_loss']))
  for leaf, where in zip(
    jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
  return state, losses


def assert_same_steps(
  got: tuple[TrainState, list[float]], expected: tuple[TrainState, list[float]]
) -> None:
  losses = expected[1]
  assert losses[-1] < losses[0] - 0.1
  np.testing.assert_allclose(got[1], losses, rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
    jax.device_get(got[0].params),
    jax.device_get(expected[0].params),
  )


@pytest.mark.parametrize(
  ('mesh_shape', 'linear', 'muon'),
  [
    pytest.param((8, 1, 1), STRIDED, '', marks=pytest.mark.long),
    ((1, 8, 1), STRIDED, ''),
    ((1, 1, 8), STRIDED, ''),
    ((2, 2, 2), STRIDED, 'coefficients'),
    ((2, 2, 2), ODD, 'kernels'),
    ((1, 4, 2), ODD, ''),
    ((2, 1, 2), DENSE, ''),
    pytest.param(
      (1, 2, 2),
      LinearConfig('low_rank', rank=6),
      '',
      marks=pytest.mark.long,
    ),
  ],
)
def test_a_mesh_gives_the_steps_of_one_device(
  mesh_shape: tuple[int, int, int], linear: LinearConfig, muon: str
) -> None:
  """With dropout too: its mask does not depend on the devices."""
  one = five_steps((1, 1, 1), linear, muon)
  assert_same_steps(five_steps(mesh_shape, linear, muon), one)


@pytest.mark.long
def test_a_scanned_stack_of_rematerialised_blocks() -> None:
  """What is kept and what is computed again changes no step."""
  plain = five_steps((1, 1, 1), scan=True, layers=2)
  many = five_steps((2, 2, 2), scan=True, layers=2, remat=True)
  assert_same_steps(many, plain)
  layer = many[0].params['blocks']['mlp_in']['coefficients']
  assert layer.shape == (2, 2, 16, 64)
  assert layer.addressable_shards[0].data.shape == (2, 2, 16, 16)


@pytest.mark.parametrize('scan', [False, True])
def test_kernels_rebuilt_once_a_step(scan: bool) -> None:
  expected = five_steps(
    (1, 1, 1), accumulate=2, rebuild_every='microbatch', scan=scan
  )
  mesh_shape = (1, 2, 2) if scan else (1, 1, 1)
  assert_same_steps(five_steps(mesh_shape, accumulate=2, scan=scan), expected)


def test_each_device_keeps_its_part() -> None:
  state, _ = five_steps((2, 2, 2), STRIDED, 'coefficients')
  layer = state.params['block_0']['mlp_in']['coefficients']
  assert layer.shape == (2, 16, 64)
  assert layer.addressable_shards[0].data.shape == (2, 16, 16)
  (momentum,) = (
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    if jax.tree_util.keystr(path).endswith(
      "mu['block_0']['mlp_in']['coefficients']"
    )
  )
  assert momentum.addressable_shards[0].data.shape == (2, 16, 16)


def test_a_dense_layer_keeps_its_rows_or_columns() -> None:
  state, _ = five_steps((2, 1, 2), DENSE)
  block = state.params['block_0']
  shards = {
    name: block[name]['kernel'].addressable_shards[0].data.shape
    for name in ('mlp_in', 'mlp_out')
  }
  assert shards == {'mlp_in': (32, 64), 'mlp_out': (64, 32)}


def test_what_does_not_divide_lies_whole() -> None:
  state, _ = five_steps((1, 4, 2), ODD)
  layer = state.params['block_0']['out']['coefficients']
  assert layer.size % 4
  assert layer.sharding.is_fully_replicated


@functools.cache
def bytes_of(name: str) -> dict[str, int]:
  return block_bytes(CONTENDERS[name], (1, 8, 1), width=32)


@pytest.mark.parametrize(
  ('name', 'keep'),
  [
    ('spectral nm/2', 0.5),
    pytest.param('spectral nm/4', 0.25, marks=pytest.mark.long),
  ],
)
def test_k_numbers_are_gathered_and_k_reduced(name: str, keep: float) -> None:
  dense, spectral = bytes_of('dense'), bytes_of(name)
  assert dense['reduce'] == dense['gather'] == 12 * 32**2 * 4
  for way in ('gather', 'reduce'):
    assert spectral[way] == pytest.approx(keep * dense[way], rel=0.02)
  vectors = 13 * 32 * 3 * 4 / 8  # biases and norms, and moments
  assert spectral['state'] - vectors == pytest.approx(
    keep * (dense['state'] - vectors), rel=0.02
  )


def test_k_numbers_are_reduced_where_nothing_is_split() -> None:
  found = block_bytes(CONTENDERS['spectral nm/2'], (8, 1, 1), width=32)
  assert (found['gather'], found['reduce']) == (0, 12 * 32**2 * 4 // 2)


@pytest.mark.parametrize('selection', ['strided', 'random'])
def test_a_state_begins_on_every_mesh(selection: str) -> None:
  """Projected kernels and their parts are laid out as XLA likes."""
  linear = LinearConfig(selection=selection)
  config = TransformerConfig(
    context=16, width=20, layers=1, heads=2, qkv='separate', linear=linear
  )
  model, optimizer = Transformer(11, config), optax.sgd(1.0)
  for shape in ((1, 2, 2), (2, 2, 2)):
    mesh = make_mesh(MeshSettings(*shape), 4, 2)
    jax.block_until_ready(make_initial_state(model, optimizer, mesh, seed=0)())


def test_the_layers_of_a_stack_are_not_parted() -> None:
  mesh = make_mesh(MeshSettings(1, 4), 4)
  leaf = jax.ShapeDtypeStruct((4, 386), np.float32)
  where = sharding.of_state(
    {'blocks': {'mlp_in': {'coefficients': leaf}}}, mesh
  )
  assert jax.tree.leaves(where)[0].is_fully_replicated


@pytest.mark.long
def test_gradients_do_not_depend_on_who_gathers_and_rebuilds() -> None:
  """SGD shows a gradient's scale, which Adam would hide.

  Eight devices divide the kernels of the hidden units, 80 wide or high, and not
  the others, of 20 by 20.
  """
  config = TransformerConfig(
    context=16, width=20, layers=1, heads=2, qkv='separate', linear=STRIDED
  )
  model, optimizer = Transformer(11, config), optax.sgd(1.0)
  drawn = np.random.default_rng(0).integers(11, size=(8, 16), dtype=np.int32)
  after: list[Any] = []
  for shape, accumulate, share in (
    ((1, 1, 1), 1, False),
    ((2, 1, 2), 1, False),
    ((1, 2, 2), 2, False),
    ((2, 2, 2), 1, True),
    ((1, 2, 1), 2, True),
  ):
    mesh = make_mesh(MeshSettings(*shape), 4, 2)
    state = make_initial_state(model, optimizer, mesh, seed=0)()
    batch = sharding.put_batch({'inputs': drawn, 'targets': drawn}, mesh)
    step = make_train_step(
      model,
      optimizer,
      mesh,
      seed=0,
      accumulate=accumulate,
      share_rebuilding=share,
    )
    state, _ = step(state, batch)
    after.append(jax.device_get(state.params))
  for other in after[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after[0], other
    )
