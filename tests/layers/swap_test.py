"""Other people's models, made spectral without a change to their code."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.find_layers import find_layers, find_selections
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.swap import Spectralized, spectralize
from spectral_jax.training.scaling import scale_by_selection
from tests.layers.linen_models import Decoder, Encoder, VisionTransformer

TOKENS = jax.random.randint(jax.random.key(7), (4, 6), 0, 11)
IMAGES = jax.random.normal(jax.random.key(7), (4, 8, 8, 3))
QUARTER = (Rule('head|Dense_4', keep=None), Rule('.*', keep=0.25))
MODELS = {
  'encoder': (Encoder(), TOKENS),
  'decoder': (Decoder(), TOKENS),
  'decoder, layers last': (Decoder(axis=-1), TOKENS),
  'vision': (VisionTransformer(), IMAGES),
}
every_model = pytest.mark.parametrize(
  ('model', 'inputs'), MODELS.values(), ids=MODELS
)


def flat_shapes(variables: Any) -> dict[str, tuple[int, ...]]:
  params = nn.meta.unbox(variables)['params']
  flat = traverse_util.flatten_dict(params, sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}


def quarter(model: nn.Module) -> Spectralized:
  head = isinstance(model, Decoder)  # it has none
  return Spectralized(model, QUARTER[1:] if head else QUARTER)


@pytest.mark.parametrize(
  'name',
  ['encoder', 'decoder', pytest.param('vision', marks=pytest.mark.long)],
)
def test_it_trains(name: str) -> None:
  model, inputs = MODELS[name]
  spectral = quarter(model)
  params = nn.meta.unbox(jax.jit(spectral.init)(jax.random.key(0), inputs))
  selections = find_selections(spectral, inputs)
  optimizer = optax.chain(
    optax.scale_by_adam(),
    scale_by_selection(selections),
    optax.scale_by_learning_rate(3e-3),
  )

  def loss(params: Any) -> jax.Array:
    logits = jnp.asarray(spectral.apply(params, inputs))
    labels = TOKENS if logits.ndim == 3 else jnp.arange(4)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  @jax.jit
  def step(params: Any, state: Any) -> Any:
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state, params)
    return value, optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  losses = []
  for _ in range(15):
    value, params, state = step(params, state)
    losses.append(float(value))
  assert losses[-1] < 0.7 * losses[0], losses


@every_model
def test_nothing_but_kernels_changes(
  model: nn.Module, inputs: jax.Array
) -> None:
  spectral = quarter(model)
  dense, stored = (
    flat_shapes(jax.eval_shape(m.init, jax.random.key(0), inputs))
    for m in (model, spectral)
  )
  layers = find_layers(spectral, inputs)
  assert len(layers) >= 6
  for path, kernel in layers.items():
    assert dense.pop(f'{path}/kernel') == kernel.shape
    assert stored.pop(f'{path}/coefficients') == kernel.layout
    assert kernel.selection.fraction == pytest.approx(0.25)
  assert stored == dense


@every_model
def test_context_and_wrapper_agree(model: nn.Module, inputs: jax.Array) -> None:
  spectral = quarter(model)
  with spectralize(spectral.rules):
    abstract = jax.eval_shape(model.init, jax.random.key(0), inputs)
    found = find_layers(model, inputs)
  assert found == find_layers(spectral, inputs)
  wrapped = jax.eval_shape(spectral.init, jax.random.key(0), inputs)
  assert flat_shapes(abstract) == flat_shapes(wrapped)


def test_context_and_wrapper_compute_the_same() -> None:
  model = Decoder(layers=2)
  spectral = quarter(model)
  params = jax.jit(spectral.init)(jax.random.key(1), TOKENS)
  with spectralize(spectral.rules):
    again = jax.jit(model.init)(jax.random.key(1), TOKENS)
    outputs = jax.jit(model.apply)(params, TOKENS)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  np.testing.assert_allclose(
    outputs, jax.jit(spectral.apply)(params, TOKENS), atol=1e-5
  )


class Twice(nn.Module):
  """One layer called twice, and one shared between two modules."""

  def setup(self) -> None:
    self.inner = nn.Dense(8)
    self.tied = nn.Sequential([self.inner, nn.relu])

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.tied(self.inner(self.inner(x)))


class Shares(nn.Module):
  """Its layer takes the place of its own parameters."""

  layer: nn.Module

  def setup(self) -> None:
    nn.share_scope(self, self.layer)

  def __call__(self, x: jax.Array) -> jax.Array:
    return 2.0 * self.layer(x)


@pytest.mark.parametrize(
  'model',
  [
    Twice(),
    Shares(nn.Dense(8)),
    Shares(nn.Sequential([nn.Dense(8)])),
    nn.Dense(8),
  ],
)
def test_shared_modules_store_once(model: nn.Module) -> None:
  x = jax.random.normal(jax.random.key(0), (2, 8))
  full = Spectralized(model, [Rule('.*', keep=1.0)])
  ((path, found),) = find_layers(full, x).items()
  abstract = jax.eval_shape(full.init, jax.random.key(0), x)
  assert sum(p.size for p in jax.tree.leaves(abstract)) == 64 + 8
  params = model.init(jax.random.key(0), x)
  flat = traverse_util.flatten_dict(params['params'], sep='/')
  kernel = flat.pop(f'{path}/kernel'.lstrip('/'))
  flat[f'{path}/coefficients'.lstrip('/')] = found.project(kernel)
  spectral = {'params': traverse_util.unflatten_dict(flat, sep='/')}
  np.testing.assert_allclose(
    full.apply(spectral, x), model.apply(params, x), atol=1e-5
  )


class OwnCall(nn.Dense):
  """A subclass whose forward pass is its own."""

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    kernel = self.param('kernel', self.kernel_init, (8, self.features))
    return inputs @ (2 * kernel)


def test_a_layer_with_a_call_of_its_own_is_left() -> None:
  model = nn.Sequential([OwnCall(8), nn.Dense(8)])
  full = Spectralized(model, [Rule('.*')])
  assert find_layers(full, jnp.ones((1, 8))).keys() == {'layers_1'}


def test_fields_of_the_dense_layer_hold() -> None:
  called = []

  def dot(*args: Any, **kwargs: Any) -> jax.Array:
    called.append(kwargs['precision'])
    return jax.lax.dot_general(*args, **kwargs)

  model = nn.Sequential(
    [
      nn.Dense(8, param_dtype=jnp.bfloat16, dot_general=dot, precision='high'),
      nn.DenseGeneral((2, 4), dtype=jnp.bfloat16, dot_general_cls=lambda: dot),
    ]
  )
  spectral = Spectralized(model, [Rule('.*', keep=0.5)])
  x = jnp.ones((2, 8))
  params = spectral.init(jax.random.key(0), x)['params']
  assert params['layers_0']['coefficients'].dtype == jnp.bfloat16
  assert params['layers_1']['coefficients'].dtype == jnp.float32
  called.clear()
  outputs = spectral.apply({'params': params}, x)
  assert outputs.dtype == jnp.bfloat16
  assert called == ['high', None]


def test_seeds_differ_by_path_and_are_pinned() -> None:
  rule = Rule('.*')
  seeds = [rule.arguments(p)['seed'] for p in ('a/query', 'a/key', 'b/key')]
  assert seeds == [2764598586, 4025508915, 2823823075]
  assert Rule('.*', seed=1).arguments('a/key')['seed'] not in seeds


def test_first_match_wins() -> None:
  rules = [Rule('head', keep=None), Rule('.*Dense_0', keep=7), Rule('.*')]
  found = find_layers(Spectralized(Encoder(), rules), TOKENS)
  assert 'head' not in found
  assert found['encoderblock_0/Dense_0'].selection.count == 7
  assert found['encoderblock_0/Dense_1'].selection.fraction == 0.5


@pytest.mark.parametrize(
  ('rules', 'expected'),
  [
    ([Rule('.*'), Rule('decoder')], "'decoder' matches no layer; there are"),
    ([Rule('.*'), Rule('head')], "'head' matches no layer that an earlier"),
  ],
)
def test_a_rule_that_matches_nothing_raises(
  rules: list[Rule], expected: str
) -> None:
  with pytest.raises(ValueError, match=expected):
    find_layers(Spectralized(Encoder(), rules), TOKENS)


def test_a_rule_that_a_layer_cannot_follow_names_it() -> None:
  rules = [Rule('head', keep=1 / 3, selection='strided')]
  with pytest.raises(ValueError, match=r'^head: keep: .*dividing both sizes'):
    find_layers(Spectralized(Encoder(), rules), TOKENS)


@pytest.mark.parametrize(
  ('make', 'expected'),
  [
    (lambda: Rule('('), r"^path: '\(' is no regular expression"),
    (lambda: Rule('a', keep=0.0), '^keep: expected a fraction'),
    (lambda: Rule('a', keep=True), '^keep: expected a fraction'),
    (lambda: Rule('a', selection='zigzag'), '^selection: expected one of'),
    (lambda: Rule('a', method='fast'), '^method: expected one of'),
    (lambda: Rule('a', basis='haar'), '^basis: expected one of'),
    (lambda: Rule('a', seed=-1), '^seed: expected 0 to'),
    (lambda: Rule('a', method='idctn', basis='orthonormal'), "'gemm'"),
    (lambda: Rule('a', shape=(8,)), r'^shape: expected \(N, M\), got'),
  ],
)
def test_a_bad_rule_raises(make: Callable[[], Rule], expected: str) -> None:
  with pytest.raises(ValueError, match=expected):
    make()


def test_an_interrupted_init_shows_its_own_error() -> None:
  def interrupted() -> None:
    with spectralize([Rule('nothing')]):
      jax.eval_shape(Encoder().init, jax.random.key(0), TOKENS)
      raise KeyError('mine')

  with pytest.raises(KeyError, match='mine'):
    interrupted()


def test_spectral_layers_by_hand_are_left() -> None:
  model = nn.Sequential([SpectralDense(8, keep=5), nn.Dense(8)])
  found = find_layers(Spectralized(model, [Rule('.*')]), jnp.ones((1, 8)))
  assert [kernel.selection.count for kernel in found.values()] == [5, 32]


class Jitted(nn.Module):
  """A model that compiles its own layer, once for all who call it."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.jit(nn.Dense)(8, name='layer')(x)


def test_what_jit_has_compiled_follows_the_rules() -> None:
  x = jax.random.normal(jax.random.key(0), (2, 8))
  model, apply = Jitted(), jax.jit(Jitted().apply)
  plain = model.init(jax.random.key(0), x)
  assert plain['params']['layer'].keys() == {'kernel', 'bias'}
  outputs = []
  for seed in (0, 1):
    spectral = Spectralized(model, [Rule('layer', keep=0.5, seed=seed)])
    assert len(find_layers(spectral, x)) == 1
    params = spectral.init(jax.random.key(0), x)
    assert params['params']['layer'].keys() == {'coefficients', 'bias'}
    ones = jax.tree.map(jnp.ones_like, params)
    outputs.append(spectral.apply(ones, x))
    with spectralize(spectral.rules):
      np.testing.assert_allclose(apply(ones, x), outputs[-1], atol=1e-5)
  assert not np.allclose(outputs[0], outputs[1])  # other positions
  np.testing.assert_array_equal(apply(plain, x), model.apply(plain, x))


def test_of_nested_rules_the_innermost_count() -> None:
  model = nn.Sequential([nn.Dense(8), nn.Dense(8)])
  inner = Spectralized(model, [Rule('layers_0', keep=7)])
  with spectralize([Rule('.*', keep=0.5)]):
    found = find_layers(inner, jnp.ones((1, 8)))
  assert {path: k.selection.count for path, k in found.items()} == {
    'layers_0': 7
  }
  with spectralize([Rule('.*')]), pytest.raises(ValueError, match='nonsense'):
    find_layers(Spectralized(model, [Rule('nonsense')]), jnp.ones((1, 8)))


def test_a_model_without_linear_layers_is_told() -> None:
  with pytest.raises(ValueError, match=r"'mlp' matches no layer; there are no"):
    find_layers(Spectralized(nn.LayerNorm(), [Rule('mlp')]), jnp.ones((1, 8)))


def test_a_wrapper_that_renames_parameters_is_told() -> None:
  model = Spectralized(nn.WeightNorm(nn.Dense(8)), [Rule('.*')])
  with pytest.raises(
    ValueError, match=r'^model: the parameters of .* lie else'
  ):
    find_layers(model, jnp.ones((1, 8)))
