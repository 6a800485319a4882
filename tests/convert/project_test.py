"""Dense to spectral and back, over other people's parameter trees."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_jax.convert.project import (
  match_layers,
  projection_errors,
  to_dense,
  to_spectral,
)
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.layers.swap import Spectralized
from tests.layers.linen_models import Decoder, Encoder, VisionTransformer

TOKENS = jax.random.randint(jax.random.key(7), (4, 6), 0, 11)
IMAGES = jax.random.normal(jax.random.key(7), (4, 8, 8, 3))


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  ('model', 'inputs'),
  [
    pytest.param(Encoder(), TOKENS, marks=pytest.mark.long),
    (Decoder(axis=0), TOKENS),
    (Decoder(axis=-1), TOKENS),
    pytest.param(VisionTransformer(), IMAGES, marks=pytest.mark.long),
  ],
  ids=['encoder', 'decoder', 'decoder, layers last', 'vision'],
)
def test_round_trip_at_full_k(model: nn.Module, inputs: jax.Array) -> None:
  spectral = Spectralized(model, [Rule('.*', keep=1.0)])
  layers = find_layers(spectral, inputs)
  variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), inputs))
  projected = to_spectral(variables, layers)
  apply = jax.jit(lambda model, v: model.apply(v, inputs), static_argnums=0)
  logits = apply(model, variables)
  np.testing.assert_allclose(apply(spectral, projected), logits, atol=1e-4)
  back = to_dense(projected, layers)
  assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, variables)
  np.testing.assert_allclose(apply(model, back), logits, atol=1e-4)


def test_merging_a_quarter_computes_the_same() -> None:
  model = nn.Sequential([nn.Dense(12), nn.MultiHeadDotProductAttention(2)])
  x = draw(2, 5, 8)
  spectral = Spectralized(model, [Rule('.*', keep=0.25)])
  params = jax.jit(spectral.init)(jax.random.key(0), x)['params']
  merged = to_dense(params, find_layers(spectral, x))
  np.testing.assert_allclose(
    jax.jit(model.apply)({'params': merged}, x),
    jax.jit(spectral.apply)({'params': params}, x),
    atol=1e-5,
  )


@pytest.mark.parametrize('kind', KINDS)
def test_the_projection_is_least_squares(kind: str) -> None:
  layer = SpectralKernel(Selection.of(kind, (8, 12), 0.25, seed=2))
  kernel = draw(8, 12)
  basis = jax.vmap(
    lambda c: kernel_from_coefficients(
      c.reshape(layer.selection.layout), layer.selection
    ).ravel()
  )(jnp.eye(24))
  best, (squares,) = np.linalg.lstsq(
    np.asarray(basis, np.float64).T, np.asarray(kernel).ravel()
  )[:2]
  params = {'a': {'kernel': kernel}}
  projected = to_spectral(params, {'a': layer})['a']['coefficients']
  np.testing.assert_allclose(projected.ravel(), best, atol=1e-5)
  (error,) = projection_errors(params, {'a': layer}).values()
  assert error == pytest.approx(
    float(squares**0.5 / jnp.linalg.norm(kernel)), abs=1e-5
  )


def test_a_tree_alone_by_rules() -> None:
  params = {
    'encoder': {
      'stack': {
        'query': {'kernel': draw(3, 8, 2, 4), 'bias': draw(3, 2, 4)},
        'mlp': {'kernel': draw(8, 16)},
      },
      'norm': {'scale': draw(8)},
    },
    'conv': {'kernel': draw(4, 4, 3, 8)},
  }
  rules = [
    Rule('conv', keep=None),
    Rule('.*/query', keep=1.0, shape=(8, 8)),
    Rule('.*', keep=1.0),
  ]
  layers = match_layers({'params': params, 'batch_stats': {}}, rules)
  assert layers.keys() == {'encoder/stack/query', 'encoder/stack/mlp'}
  query = layers['encoder/stack/query']
  assert (query.shape, query.stack) == ((3, 8, 2, 4), (0,))
  assert (
    query.selection.seed == rules[1].select('encoder/stack/query', (8, 8)).seed
  )
  projected = to_spectral(params, layers)
  assert projected['conv'] is not None
  np.testing.assert_array_equal(
    projected['conv']['kernel'], params['conv']['kernel']
  )
  assert projected['encoder']['stack']['query']['coefficients'].shape == (3, 64)
  back = to_dense(projected, layers)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), back, params
  )


def test_a_rule_is_for_its_own_path_alone() -> None:
  params = {'mlp': {'kernel': draw(4, 6)}}
  params['enc'] = dict(params)
  layers = match_layers(params, [Rule('mlp', keep=0.5)])
  assert layers.keys() == {'mlp'}
  projected = to_spectral({'params': params, 'cache': {}}, layers)
  assert projected['cache'] == {}
  assert projected['params']['enc']['mlp'].keys() == {'kernel'}
  assert projected['params']['mlp'].keys() == {'coefficients'}


@pytest.mark.parametrize(
  'tree',
  [{'params': {}, 'opt_state': {}}, [draw(2)], draw(2), nnx.State({})],
  ids=['train state', 'list', 'array', 'nnx'],
)
def test_what_is_no_parameters_is_refused(tree: Any) -> None:
  with pytest.raises(ValueError, match=r'^params: expected the nested dict'):
    to_spectral(tree, {})
  with pytest.raises(ValueError, match=r'^params: expected the nested dict'):
    match_layers(tree, [])


@pytest.mark.parametrize('axis', [0, 1, -1])
def test_a_stack_on_any_axis(axis: int) -> None:
  """As many layers as features: sizes alone could not tell the axes."""
  model = nn.scan(
    Scanned,
    variable_axes={'params': axis},
    split_rngs={'params': True},
    length=8,
  )()
  x = draw(2, 8)
  spectral = Spectralized(model, [Rule('.*', keep=1.0, selection='lowpass')])
  layers = find_layers(spectral, x)
  variables = model.init(jax.random.key(0), x)
  projected = to_spectral(variables, layers)
  shapes = jax.tree.map(jnp.shape, projected)
  abstract = jax.eval_shape(spectral.init, jax.random.key(0), x)
  assert shapes == jax.tree.map(jnp.shape, abstract)
  outputs, _ = model.apply(variables, x)
  np.testing.assert_allclose(
    spectral.apply(projected, x)[0], outputs, atol=1e-4
  )
  back = to_dense(projected, layers)
  np.testing.assert_allclose(
    back['params']['Dense_0']['kernel'],
    variables['params']['Dense_0']['kernel'],
    atol=1e-5,
  )


class Scanned(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
    return nn.Dense(8)(x), None


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_errors_of_narrow_kernels_are_taken_in_float32(dtype: Any) -> None:
  layer = SpectralKernel(Selection.of('random', (256, 256), 0.75))
  kernel = jax.random.normal(jax.random.key(0), (256, 256)).astype(dtype)
  (error,) = projection_errors({'a': {'kernel': kernel}}, {'a': layer}).values()
  assert error == pytest.approx(0.5, abs=0.01)
  zero = projection_errors({'a': {'kernel': 0 * kernel}}, {'a': layer})
  assert zero == {'a': 0.0}


def test_boxed_parameters_are_taken_out() -> None:
  layers = {'a': SpectralKernel(Selection.of('random', (4, 6), 0.5))}
  boxed = {'a': {'kernel': nn.Partitioned(draw(4, 6), ('x', None))}}
  assert to_spectral(boxed, layers)['a']['coefficients'].shape == (12,)


LAYERS = {'a/b': SpectralKernel(Selection.of('random', (4, 6), 0.5))}


@pytest.mark.parametrize(
  ('params', 'expected'),
  [
    (
      {'a': {'c': {'kernel': draw(4, 6)}}},
      "^params: expected 'kernel' in 'a/b'",
    ),
    ({'a': {'b': {'kernel': draw(6, 4)}}}, r'^a/b: kernel: expected shape'),
    ({'b': {'kernel': draw(4, 6)}}, "^params: expected 'kernel' in 'a/b'"),
  ],
)
def test_parameters_of_another_model_are_refused(
  params: Any, expected: str
) -> None:
  with pytest.raises(ValueError, match=expected):
    to_spectral(params, LAYERS)


def test_coefficients_of_another_k_are_refused() -> None:
  params = {'a': {'b': {'coefficients': draw(11)}}}
  with pytest.raises(ValueError, match=r'^a/b: coefficients: expected .*12'):
    to_dense(params, LAYERS)


@pytest.mark.parametrize(
  ('rule', 'expected'),
  [
    (Rule('nothing'), "^rules: 'nothing' matches no layer; there are heads."),
    (Rule('heads'), r'^heads: a kernel \(8, 2, 4\) may .* shape=\(N, M\)'),
    (Rule('heads', shape=(8, 7)), r'^heads: shape: \(8, 2, 4\) is no stack'),
    (
      Rule('heads', 1 / 3, 'strided', shape=(8, 8)),
      '^heads: keep: a strided selection',
    ),
  ],
)
def test_a_rule_that_cannot_be_is_refused(rule: Rule, expected: str) -> None:
  with pytest.raises(ValueError, match=expected):
    match_layers({'heads': {'kernel': draw(8, 2, 4)}}, [rule])
