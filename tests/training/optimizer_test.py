"""What each parameter gets, in closed form."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest
import scipy.fft

from spectral_jax.core.selection import Selection
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training.optimizer import (
  learning_rate_schedule,
  make_optimizer,
)
from spectral_jax.training.settings import OptimizerSettings
from tests.training.optimizers import (
  ADAMW,
  MUON,
  STEPS,
  by_name,
  draw_like,
  layers,
  make_config,
)


def first_update(
  settings: OptimizerSettings,
  config: TransformerConfig,
  params: Any,
  gradients: Any,
) -> dict[str, np.ndarray]:
  optimizer = make_optimizer(settings, STEPS, params, layers(config, params))
  updates, _ = jax.jit(optimizer.update)(
    gradients, optimizer.init(params), params
  )
  return by_name(updates)


@pytest.mark.parametrize(
  ('linear', 'scale'),
  [
    (LinearConfig('dense'), 1.0),
    (LinearConfig('low_rank', rank=2), 1.0),
    (LinearConfig(keep=0.25, selection='lowpass'), 1.0),
    (LinearConfig(keep=0.25, selection='random'), 4.0),
    (LinearConfig(keep=0.5, selection='strided'), 2.0),
    (LinearConfig(keep=0.125, selection='band'), 8.0),
  ],
  ids=lambda x: (
    f'{x.kind}-{x.selection}' if isinstance(x, LinearConfig) else ''
  ),
)
def test_the_first_step_of_adamw(linear: LinearConfig, scale: float) -> None:
  config = make_config(linear)
  params, gradients = draw_like(config, 0), draw_like(config, 1)
  updates = first_update(ADAMW, config, params, gradients)
  stored = by_name(params)
  matrices = ('kernel', 'coefficients', 'down', 'up')
  assert sum(name.endswith(matrices) for name in stored) == (
    9 if linear.kind == 'low_rank' else 5
  )
  for name, gradient in by_name(gradients).items():
    direction = np.sign(gradient)
    if name.endswith('coefficients'):
      direction = scale * direction
    if name.endswith(matrices):
      direction = direction + 0.5 * stored[name]
    np.testing.assert_allclose(
      updates[name], -0.01 * direction, rtol=1e-3, err_msg=name
    )


def test_decay_pulls_on_kernels_alone() -> None:
  config = make_config(LinearConfig(keep=0.5, selection='strided'))
  params = draw_like(config, 0)
  zeros = jax.tree.map(np.zeros_like, params)
  updates = first_update(ADAMW, config, params, zeros)
  decayed = {name for name, update in updates.items() if np.any(update)}
  layers = config.kernel_shapes()
  assert decayed == {
    'head/kernel',
    *(f'block_0/{layer}/coefficients' for layer in layers),
  }
  stored = by_name(params)
  for name in decayed:
    np.testing.assert_allclose(
      updates[name], -0.01 * 0.5 * stored[name], rtol=1e-5
    )


@pytest.mark.parametrize(
  'linear',
  [
    LinearConfig('low_rank', rank=2),
    LinearConfig(keep=0.5, selection='strided'),
  ],
  ids=lambda linear: linear.kind,
)
def test_muon_orthogonalises_every_matrix_of_a_stack(
  linear: LinearConfig,
) -> None:
  config = make_config(linear)
  params, gradients = draw_like(config, 0), draw_like(config, 1)
  if linear.kind == 'spectral':
    # One block's gradient must not drown the other's.
    layer = gradients['block_0']['mlp_in']
    assert layer['coefficients'].shape == (2, 8, 32)
    layer['coefficients'][0] *= 1000
  updates = first_update(MUON, config, params, gradients)
  taken = 0
  for name, gradient in by_name(gradients).items():
    if not name.startswith('block') or gradient.ndim < 2:
      np.testing.assert_allclose(
        updates[name], -0.01 * np.sign(gradient), rtol=1e-2, err_msg=name
      )
      continue
    taken += 1
    r, c = gradient.shape[-2:]
    size = 0.03 * math.sqrt(max(1, c / r))
    u, _, vh = np.linalg.svd(gradient, full_matrices=False)
    values = np.linalg.svd(updates[name], compute_uv=False) / size
    assert values.min() > 0.3, name
    assert values.max() < 1.3, name
    # The nearest matrix of equal singular values is U Vᵀ.
    along = -np.sum(updates[name] / size * (u @ vh), (-2, -1)) / min(r, c)
    assert along.min() > 0.6, name
    assert along.max() < 1.3, name
  assert taken == (8 if linear.kind == 'low_rank' else 4)


def test_muon_leaves_vectors_of_coefficients_to_adam() -> None:
  config = make_config(LinearConfig(keep=0.25, selection='random'))
  params, gradients = draw_like(config, 0), draw_like(config, 1)
  updates = first_update(MUON, config, params, gradients)
  for name, gradient in by_name(gradients).items():
    scale = 4 if name.endswith('coefficients') else 1
    np.testing.assert_allclose(
      updates[name], -0.01 * scale * np.sign(gradient), rtol=1e-3, err_msg=name
    )


def first_update_on_kernels(
  settings: OptimizerSettings, selection: str
) -> tuple[Any, Any, Any, Selection]:
  """Updates, parameters, gradients, and what block_0/mlp_in keeps."""
  linear = LinearConfig(keep=0.25, selection=selection)
  config = make_config(linear)
  params = draw_like(config, 0)
  gradients = draw_like(make_config(LinearConfig('dense')), 1)
  settings = dataclasses.replace(settings, gradients='kernels')
  return (
    first_update(settings, config, params, gradients),
    by_name(params),
    by_name(gradients),
    linear.select((16, 64), config.seed(0, 'mlp_in')),
  )


@pytest.mark.parametrize(
  ('selection', 'scale'), [('random', 4.0), ('lowpass', 1.0)]
)
def test_the_first_step_of_adamw_on_kernels(
  selection: str, scale: float
) -> None:
  updates, params, gradients, kept = first_update_on_kernels(ADAMW, selection)
  signs = np.sign(gradients['block_0/mlp_in/kernel'])
  direction = scale * scipy.fft.dctn(signs, norm='ortho').flat[kept.positions]
  # Weight decay is neither projected nor lengthened.
  name = 'block_0/mlp_in/coefficients'
  expected = -0.01 * (direction + 0.5 * params[name])
  np.testing.assert_allclose(updates[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('selection', ['random', 'lowpass'])
def test_muon_of_kernels_is_projected_and_keeps_its_size(
  selection: str,
) -> None:
  updates, _, gradients, kept = first_update_on_kernels(MUON, selection)
  u, _, vh = np.linalg.svd(
    gradients['block_0/mlp_in/kernel'], full_matrices=False
  )
  nearest = scipy.fft.dctn(u @ vh, norm='ortho').flat[kept.positions]
  # Of Newton and Schulz's singular values none is 1, all are near it.
  got = -updates['block_0/mlp_in/coefficients'] / (0.03 * math.sqrt(4))
  assert np.corrcoef(got, nearest)[0, 1] > 0.9
  assert 0.7 < np.linalg.norm(got) / (2 * np.linalg.norm(nearest)) < 1.3
  name = 'block_0/mlp_in/bias'
  np.testing.assert_allclose(
    updates[name], -0.01 * np.sign(gradients[name]), rtol=1e-2
  )


@pytest.mark.parametrize('settings', [ADAMW, MUON])
def test_a_dense_model_s_kernels_are_its_own(
  settings: OptimizerSettings,
) -> None:
  config = make_config(LinearConfig('dense'))
  params, gradients = draw_like(config, 0), draw_like(config, 1)
  on_kernels = dataclasses.replace(settings, gradients='kernels')
  plain = first_update(settings, config, params, gradients)
  for name, update in first_update(
    on_kernels, config, params, gradients
  ).items():
    np.testing.assert_array_equal(update, plain[name], err_msg=name)


@pytest.mark.parametrize(
  ('name', 'gradients', 'selection'),
  [
    ('adamw', 'coefficients', 'random'),
    ('adamw', 'kernels', 'random'),
    ('muon', 'coefficients', 'strided'),
    ('muon', 'kernels', 'random'),
  ],
)
def test_blocks_of_a_scanned_stack_are_updated_as_if_alone(
  name: str, gradients: str, selection: str
) -> None:
  settings = dataclasses.replace(
    ADAMW, name=name, gradients=gradients, clip_norm=1e9
  )
  alone = make_config(LinearConfig(keep=0.25, selection=selection))
  scanned = dataclasses.replace(alone, layers=2, scan=True)
  seen = LinearConfig('dense') if gradients == 'kernels' else alone.linear
  stacks = [
    {'mlp_in': draw_like(config, seed)['blocks']['mlp_in']}
    for seed, config in enumerate(
      (scanned, dataclasses.replace(scanned, linear=seen))
    )
  ]
  first = {'block_0': jax.tree.map(lambda x: x[0], stacks[0])}
  one = make_optimizer(settings, STEPS, first, layers(alone, first))

  def update(params: Any, gradients: Any) -> Any:
    return one.update(gradients, one.init(params), params)[0]

  expected = by_name(
    jax.jit(jax.vmap(update))(*({'block_0': stack} for stack in stacks))
  )
  got = first_update(
    settings, scanned, *({'blocks': stack} for stack in stacks)
  )
  assert got['blocks/mlp_in/coefficients'].shape[0] == 2
  for path, updates in got.items():
    np.testing.assert_allclose(
      updates,
      expected[path.replace('blocks', 'block_0')],
      rtol=1e-4,
      atol=1e-6,
      err_msg=path,
    )


def test_gradients_are_clipped_by_their_global_norm() -> None:
  config = make_config(LinearConfig('dense'))
  params = draw_like(config, 0)
  drawn = draw_like(config, 1)
  norm = math.sqrt(sum(np.vdot(g, g) for g in jax.tree.leaves(drawn)))
  optimizer = make_optimizer(ADAMW, STEPS, params, layers(config, params))

  @jax.jit
  def second_update(first_norm: float) -> jax.Array:
    state = optimizer.init(params)
    updates = None
    for factor in (first_norm, -1.0):
      gradients = jax.tree.map(lambda g, f=factor: f / norm * g, drawn)
      updates, state = optimizer.update(gradients, state, params)
    return updates['head']['kernel']

  expected = second_update(1.0)
  np.testing.assert_allclose(second_update(1000.0), expected, rtol=1e-3)
  assert np.abs(second_update(0.5) - expected).max() > 1e-3


def test_the_schedule_warms_up_and_decays() -> None:
  settings = dataclasses.replace(ADAMW, warmup_steps=20)
  schedule = learning_rate_schedule(settings, 100)
  assert schedule(0) == 0
  assert schedule(10) == pytest.approx(0.5)
  assert schedule(20) == pytest.approx(1.0)
  assert schedule(60) == pytest.approx(0.55)  # half-way from 1 to 0.1
  assert schedule(100) == pytest.approx(0.1)
  assert schedule(1000) == pytest.approx(0.1)


@pytest.mark.parametrize(('warmup_steps', 'steps'), [(20, 6), (20, 20), (0, 1)])
def test_a_short_run_still_warms_up_and_decays(
  warmup_steps: int, steps: int
) -> None:
  settings = dataclasses.replace(ADAMW, warmup_steps=warmup_steps)
  schedule = learning_rate_schedule(settings, steps)
  assert schedule(steps // 2) == pytest.approx(1.0)
  assert schedule(steps) == pytest.approx(0.1)


@pytest.mark.parametrize(
  'path', ['block_0/qkv/gate', 'adapter/kernel', 'head/embedding']
)
def test_an_unknown_parameter_is_named(path: str) -> None:
  params: Any = np.ones((2, 2), np.float32)
  for part in reversed(path.split('/')):
    params = {part: params}
  with pytest.raises(ValueError, match=f"^params: no .* rule matches '{path}'"):
    make_optimizer(ADAMW, STEPS, params, {})


@pytest.mark.parametrize('name', ['adamw', 'muon'])
@pytest.mark.parametrize('gradients', ['coefficients', 'kernels'])
def test_where_moments_are_in_a_checkpoint(name: str, gradients: str) -> None:
  """A checkpoint is read by these names: to change them is to lose it."""
  settings = dataclasses.replace(ADAMW, name=name, gradients=gradients)
  config = make_config(LinearConfig(keep=0.5, selection='strided'))
  params = draw_like(config, 0)
  optimizer = make_optimizer(settings, STEPS, params, layers(config, params))
  state = optimizer.init(params)
  paths = {
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(state)
  }
  kernels = gradients == 'kernels'
  inner = '[0][1]' if kernels else '[1]'
  label = 'muon' if name == 'muon' else 'adam'
  leaf = 'kernel' if kernels else 'coefficients'
  layer = f"inner_states['{label}'].inner_state[0].mu['block_0']['out']"
  head = "inner_states['adam'].inner_state[0].nu['head']['kernel']"
  assert f'{inner}.{head}' in paths
  assert f"{inner}.{layer}['{leaf}']" in paths
  assert '[4].count' in paths
