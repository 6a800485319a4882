"""Elastic K: what is cut is what was first, what is grown is zero."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import spectral_jax.nnx
from spectral_jax.convert.resize import resize, with_keep
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers.find_layers import find_layers, find_selections
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.layers.swap import Spectralized
from spectral_jax.training.scaling import scale_by_selection
from tests.layers.linen_models import Decoder

TOKENS = jax.random.randint(jax.random.key(7), (4, 6), 0, 11)
half, quarter = (
  Spectralized(Decoder(layers=2), [Rule('.*', keep=keep)])
  for keep in (0.5, 0.25)
)


@pytest.mark.parametrize('kind', KINDS)
def test_cutting_is_truncation_in_the_spectrum(kind: str) -> None:
  large = SpectralKernel(Selection.of(kind, (8, 12), 0.5, seed=5))
  small = with_keep({'a': large}, 0.25)['a']
  coefficients = jax.random.normal(jax.random.key(0), large.layout)
  tree = {'a': {'coefficients': coefficients}}
  cut = resize(tree, {'a': large}, {'a': small})['a']['coefficients']
  np.testing.assert_allclose(
    small.rebuild(cut),
    small.rebuild(small.project(large.rebuild(coefficients))),
    atol=1e-6,
  )
  if kind != 'strided':
    np.testing.assert_array_equal(cut, coefficients[: small.selection.count])
  grown = resize({'a': {'coefficients': cut}}, {'a': small}, {'a': large})
  np.testing.assert_allclose(
    large.rebuild(grown['a']['coefficients']), small.rebuild(cut), atol=1e-6
  )


@pytest.mark.long
def test_growing_in_the_middle_of_training() -> None:
  """The function and the old moments stay, and training goes on."""

  def optimizer(model: Any) -> optax.GradientTransformation:
    return optax.chain(
      optax.scale_by_adam(),
      scale_by_selection(find_selections(model, TOKENS)),
      optax.scale_by_learning_rate(3e-3),
    )

  @functools.partial(jax.jit, static_argnums=0)
  def step(model: Any, params: Any, state: Any) -> Any:
    def loss_fn(params: Any) -> tuple[jax.Array, jax.Array]:
      logits = model.apply(params, TOKENS)
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS)
      return loss.mean(), logits

    values, gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, state = optimizer(model).update(gradient, state, params)
    return values, optax.apply_updates(params, updates), state

  params = jax.jit(quarter.init)(jax.random.key(0), TOKENS)
  params = nn.meta.unbox(params)
  state = optimizer(quarter).init(params)
  for _ in range(5):
    _, params, state = step(quarter, params, state)
  old, new = (find_layers(model, TOKENS) for model in (quarter, half))
  grown, grown_state = (resize(tree, old, new) for tree in (params, state))
  (first_loss, expected), _, _ = step(quarter, params, state)
  (_, logits), _, _ = step(half, grown, grown_state)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  fresh = optimizer(half).init(grown)
  assert jax.tree.map(jnp.shape, grown_state) == jax.tree.map(jnp.shape, fresh)
  for before, after in ((params, grown), (state[0].nu, grown_state[0].nu)):
    was = before['params']['stack']['wo']['coefficients']
    now = after['params']['stack']['wo']['coefficients']
    np.testing.assert_array_equal(now[:, : was.shape[1]], was)
    assert not now[:, was.shape[1] :].any()
    assert was.any()
  for _ in range(8):
    (loss, _), grown, grown_state = step(half, grown, grown_state)
  assert loss < first_loss


def test_leaves_of_other_shapes_stay() -> None:
  """A kernel's moments, a mask, a count beside the coefficients."""
  old = {'a': SpectralKernel(Selection.of('random', (4, 4), 0.5))}
  state = {
    'kernel': {'a': {'kernel': jnp.ones((4, 4))}},
    'norm': {'a': {'coefficients': jnp.ones(1)}},
    'moment': {'a': {'coefficients': jnp.ones(8), 'bias': jnp.ones(8)}},
    'count': jnp.zeros(()),
  }
  shapes = jax.tree.map(jnp.shape, resize(state, old, with_keep(old, 0.25)))
  assert shapes['kernel']['a']['kernel'] == (4, 4)
  assert shapes['moment']['a'] == {'coefficients': (4,), 'bias': (8,)}


def test_each_path_is_its_own_layer() -> None:
  layer = SpectralKernel(Selection.of('random', (4, 4), 0.5))
  old = {'a': layer, 'b/a': layer}
  tree = {'params': {'a': {'coefficients': jnp.ones(8)}}}
  tree['params']['b'] = dict(tree['params'])
  new = with_keep({'a': layer}, 0.25)  # says nothing of b/a
  shapes = jax.tree.map(jnp.shape, resize(tree, old, new))['params']
  assert shapes['a']['coefficients'] == (4,)
  assert shapes['b']['a']['coefficients'] == (8,)


def test_what_cannot_be_resized_is_named() -> None:
  old = {'a': SpectralKernel(Selection.of('random', (4, 4), 0.5))}
  new = with_keep(old, 0.25)
  with pytest.raises(
    ValueError, match=r'^tree: there are no coefficients of a'
  ):
    resize({'b': {'coefficients': jnp.ones(8)}}, old, new)
  with pytest.raises(
    ValueError, match=r'^a: expected shape \(8,\), got \(7,\)'
  ):
    resize({'a': {'coefficients': jnp.ones(7)}}, old, new)


def test_the_state_of_an_nnx_model_is_resized() -> None:
  model = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
  spectral_jax.nnx.spectralize(model, [Rule('.*', keep=0.5)])
  old = spectral_jax.nnx.find_layers(model)
  optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
  for tree in (nnx.state(model), nnx.state(optimizer)):
    resized = resize(tree, old, with_keep(old, 0.25))
    sizes = {leaf.size for leaf in jax.tree.leaves(resized)}
    assert 4 in sizes
    assert 8 not in sizes


@pytest.mark.parametrize(
  ('old', 'new', 'expected'),
  [
    (('random', 0.5, 0), ('lowpass', 0.25, 0), '^a: .*does not hold the pos'),
    (('random', 0.5, 0), ('random', 0.25, 1), '^a: .*does not hold the pos'),
    (('strided', 0.5, 0), ('strided', 1 / 3, 0), '^a: .*K that divides'),
  ],
)
def test_another_selection_is_refused(
  old: Any, new: Any, expected: str
) -> None:
  kernels = [
    {'a': SpectralKernel(Selection.of(kind, (6, 12), keep, seed))}
    for kind, keep, seed in (old, new)
  ]
  with pytest.raises(ValueError, match=expected):
    resize({}, *kernels)


def test_another_model_is_refused() -> None:
  layer = SpectralKernel(Selection.of('random', (4, 4), 0.5))
  with pytest.raises(ValueError, match=r'^b: stores no coefficients'):
    resize({}, {'a': layer}, {'b': layer})
