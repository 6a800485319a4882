"""Every spectral layer of a model is found, however deep it lies."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from spectral_jax import Selection, SpectralDense, scale_by_selection
from spectral_jax.layers.find_layers import find_layers, find_selections


class Block(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
    return SpectralDense(8, keep=0.25, seed=3, name='inner')(inputs=x), None


class Model(nn.Module):
  """A norm with state, a dense layer, and a scanned stack."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.BatchNorm(use_running_average=True)(x)
    x = SpectralDense(8, keep=10, selection='lowpass')(nn.Dense(6)(x))
    stack = nn.scan(
      nn.remat(Block),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=2,
    )
    return stack(name='stack')(x, None)[0]


def test_it_finds_them_all() -> None:
  found = find_selections(Model(), jnp.ones((1, 5)))
  quarter = Selection.of('random', (8, 8), 0.25, seed=3)
  assert found == {
    'batch_stats': {'BatchNorm_0': {'mean': None, 'var': None}},
    'params': {
      'BatchNorm_0': {'bias': None, 'scale': None},
      'Dense_0': {'bias': None, 'kernel': None},
      'SpectralDense_0': {
        'bias': None,
        'coefficients': Selection('lowpass', (6, 8), 10),
      },
      'stack': {'inner': {'bias': None, 'coefficients': quarter}},
    },
  }


def test_the_rule_takes_what_it_finds() -> None:
  x = jnp.ones((1, 5))
  params = Model().init(jax.random.key(0), x)['params']
  scale = scale_by_selection(find_selections(Model(), x)['params'])
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = scale.update(ones, scale.init(params))
  norms = jax.tree.map(optax.tree.norm, updates)
  assert norms['stack']['inner']['coefficients'] == pytest.approx(4 * 32**0.5)
  assert norms['stack']['inner']['bias'] == pytest.approx(4)


def test_it_finds_what_is_compiled_already() -> None:
  model, x = nn.jit(SpectralDense)(8, keep=0.5), jnp.ones((1, 8))
  model.init(jax.random.key(0), x)
  for _ in range(2):
    (found,) = find_layers(model, x).values()
    assert found.selection.count == 32
