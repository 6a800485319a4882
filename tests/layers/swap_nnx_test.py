"""Somebody's NNX transformer becomes spectral by rules, and dense again."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from spectral_jax.core.selection import Selection
from spectral_jax.layers.linear_general_nnx import SpectralLinearGeneral
from spectral_jax.layers.linear_nnx import SpectralLinear
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.layers.swap_nnx import densify, find_layers, spectralize
from tests.layers.nnx_transformer import Config, Transformer, train_step

NORMAL = nnx.initializers.normal()
RULES = (
  Rule('head', keep=None),
  Rule('blocks/.*/attention/.*', keep=0.5, selection='strided'),
  Rule('.*', keep=0.25),
)


def draw(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(0), shape)


@functools.cache
def _made() -> tuple[Any, Any]:
  return nnx.split(nnx.jit(lambda: Transformer(Config(), rngs=nnx.Rngs(0)))())


def transformer() -> Transformer:
  return nnx.merge(*_made())


@nnx.jit
def run(model: Any, inputs: jax.Array) -> jax.Array:
  return model(inputs)


def linear(inputs: int = 8, outputs: int = 8, **settings: Any) -> nnx.Linear:
  return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0), **settings)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  return {
    '/'.join(map(str, path)): leaf.shape
    for path, leaf in nnx.to_flat_state(nnx.state(model))
  }


def tokens(rows: int = 8) -> jax.Array:
  """Each row counts on from its first token."""
  return (jnp.arange(rows)[:, None] + jnp.arange(12)[None]) % 16


def test_rules_say_which_layers_store_what() -> None:
  model = transformer()
  before = shapes(model)
  spectralize(model, RULES)
  after = shapes(model)
  found = find_layers(model)
  attention = {'query', 'key', 'value', 'out'}
  assert found.keys() == {
    *(f'blocks/{i}/attention/{name}' for i in (0, 1) for name in attention),
    *(f'blocks/{i}/mlp/{name}' for i in (0, 1) for name in ('up', 'down')),
  }
  swapped = {f'{path}/kernel' for path in found}
  assert {k: v for k, v in before.items() if k not in swapped} == {
    k: v for k, v in after.items() if not k.endswith('/coefficients')
  }
  for path, stored in found.items():
    rule = next(rule for rule in RULES if rule.matches(path))
    assert stored.shape == before[f'{path}/kernel']
    assert stored.selection == rule.select(path, stored.selection.shape)
    assert after[f'{path}/coefficients'] == stored.layout
  assert found['blocks/0/attention/out'].shape == (2, 8, 16)
  assert isinstance(model.blocks[0].attention.out, SpectralLinearGeneral)
  assert isinstance(model.blocks[1].mlp.up, SpectralLinear)
  assert type(model.head) is nnx.Linear


def test_it_learns() -> None:
  model = transformer()
  spectralize(model, RULES)
  optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
  start = model.blocks[0].mlp.up.coefficients[...]
  losses = [train_step(model, optimizer, tokens()) for _ in range(25)]
  assert losses[0] > 2.5
  assert losses[-1] < 0.5
  assert jnp.abs(model.blocks[0].mlp.up.coefficients[...] - start).max() > 0.01


def test_all_coefficients_there_and_back_are_the_same_model() -> None:
  model = transformer()
  before = nnx.state(model)
  expected = run(model, tokens(2))
  spectralize(model, [Rule('.*', keep=1.0)], project=True)
  assert len(find_layers(model)) == 13
  logits = run(model, tokens(2))
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  densify(model)
  assert find_layers(model) == {}
  assert type(model.blocks[0].attention.query) is nnx.LinearGeneral
  assert type(model.blocks[0].mlp.up) is nnx.Linear
  np.testing.assert_allclose(run(model, tokens(2)), expected, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    nnx.state(model),
    before,
  )


def test_densify_keeps_what_the_model_computes() -> None:
  model = transformer()
  spectralize(model, RULES)
  expected = run(model, tokens(2))
  densify(model)
  assert find_layers(model) == {}
  np.testing.assert_allclose(run(model, tokens(2)), expected, atol=1e-5)


def test_the_coefficients_start_as_the_layer_draws_them_or_as_projected() -> (
  None
):
  rule = Rule('layers/0', keep=0.25, seed=5)
  drawn, projected = nnx.Sequential(linear()), nnx.Sequential(linear())
  kernel = drawn.layers[0].kernel[...]
  spectralize(drawn, [rule])
  spectralize(projected, [rule], project=True)
  made = SpectralLinear(8, 8, rngs=nnx.Rngs(0), **rule.arguments('layers/0'))
  np.testing.assert_array_equal(
    drawn.layers[0].coefficients[...], made.coefficients[...]
  )
  stored = projected.layers[0].stored
  assert stored == made.stored
  np.testing.assert_allclose(
    projected.layers[0].coefficients[...], stored.project(kernel), atol=1e-6
  )
  np.testing.assert_allclose(
    drawn.layers[0].coefficients[...],
    2 * projected.layers[0].coefficients[...],
    atol=1e-6,
  )


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('general', [True, False])
def test_all_settings_carry_over_there_and_back(
  general: bool, use_bias: bool
) -> None:
  def product(*args: Any, **kwargs: Any) -> Any:
    return jax.lax.dot_general(*args, **kwargs)

  def promote(*args: Any, **kwargs: Any) -> Any:
    return nnx.nn.dtypes.promote_dtype(*args, **kwargs)

  settings: dict[str, Any] = {
    'use_bias': use_bias,
    'dtype': jnp.bfloat16,
    'param_dtype': jnp.float16,
    'precision': 'highest',
    'dot_general': product,
    'promote_dtype': promote,
    'preferred_element_type': jnp.float32,
  }
  if general:
    settings |= {
      'axis': (-2, -1),
      'batch_axis': {0: 2},
      'dot_general_cls': lambda: product,
    }
  make = nnx.LinearGeneral if general else nnx.Linear
  with nnx.use_eager_sharding(False):
    dense = make(
      (2, 4) if general else 8,
      (4, 2) if general else 8,
      bias_init=NORMAL,
      kernel_metadata={'decay': 0.1, 'out_sharding': ('fsdp', 'tensor')},
      bias_metadata={'out_sharding': ('tensor',)},
      rngs=nnx.Rngs(0),
      **settings,
    )
    model = nnx.Sequential(dense)
    spectralize(model, [Rule('.*', keep=0.25)])
    spectral = model.layers[0]
    densify(model)
  again = model.layers[0]
  settings |= {'in_features': dense.in_features}
  settings |= {'out_features': dense.out_features}
  for layer in (spectral, again):
    for name in settings:
      assert getattr(layer, name) == getattr(dense, name), name
    assert layer.bias is dense.bias
    assert (layer.bias is not None) == use_bias
  for leaf in (spectral.coefficients, again.kernel):
    assert type(leaf) is nnx.Param
    assert leaf.dtype == jnp.float16
    assert leaf.get_metadata('decay') == 0.1
    assert not leaf.has_metadata('out_sharding')
  assert type(again) is make
  assert again.kernel.shape == dense.kernel.shape
  inputs = draw(2, 3, 2, 4) if general else draw(3, 8)
  outputs = run(spectral, inputs)
  assert outputs.dtype == jnp.float32
  np.testing.assert_array_equal(outputs, run(again, inputs))


class Own(nnx.Linear):
  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    return 2 * super().__call__(inputs, out_sharding)


class Pair(nnx.Module):
  """Layers in all the containers that NNX knows, and an own one."""

  def __init__(self) -> None:
    self.tuple = nnx.data((linear(), {'deep': linear()}))
    self.plain = nnx.data([linear()])
    self.named = nnx.Dict(a=linear())
    self.numbers = (1, 2)
    self.own = Own(8, 8, rngs=nnx.Rngs(0))
    self.parent = nnx.List([linear() for _ in range(11)])


def test_layers_are_found_in_all_containers() -> None:
  model = Pair()
  spectralize(model, [Rule('.*')])
  assert find_layers(model).keys() == {
    'tuple/0',
    'tuple/1/deep',
    'plain/0',
    'named/a',
    *(f'parent/{i}' for i in range(11)),
  }
  assert isinstance(model.tuple, tuple)
  assert isinstance(model.tuple[1]['deep'], SpectralLinear)
  assert isinstance(model.plain[0], SpectralLinear)
  assert model.numbers == (1, 2)
  assert type(model.own) is Own
  seeds = {s.selection.seed for s in find_layers(model).values()}
  assert len(seeds) == 15
  graphdef, state = nnx.split(model)
  assert find_layers(nnx.merge(graphdef, state)) == find_layers(model)


def test_a_subclass_of_a_spectral_layer_is_found_and_stays() -> None:
  class Louder(SpectralLinear):
    pass

  model = nnx.Sequential(Louder(8, 8, rngs=nnx.Rngs(0)))
  densify(model)
  assert find_layers(model).keys() == {'layers/0'}


class Shared(nnx.Module):
  """One layer at three places, one block at two, and a cycle."""

  def __init__(self) -> None:
    self.second = linear()
    self.first = self.second
    self.pair = nnx.data((self.second,))
    self.block_a = nnx.Sequential(linear())
    self.block_b = self.block_a
    self.block_a.parent = self

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.second(self.first(x)) + self.pair[0](self.block_b(x))


def test_shared_layers_stay_shared() -> None:
  model = Shared()
  expected = model(draw(3, 8))
  spectralize(model, [Rule('.*', keep=1.0)], project=True)
  assert isinstance(model.first, SpectralLinear)
  assert model.first is model.second is model.pair[0]
  assert model.block_a is model.block_b
  # The paths are those of `nnx.state`, where the parameters are found.
  paths = {path[:-1] for path, _ in nnx.to_flat_state(nnx.state(model))}
  assert find_layers(model).keys() == {'/'.join(map(str, p)) for p in paths}
  np.testing.assert_allclose(model(draw(3, 8)), expected, atol=1e-5)
  densify(model)
  assert type(model.first) is nnx.Linear
  assert model.first is model.second is model.pair[0]
  np.testing.assert_allclose(model(draw(3, 8)), expected, atol=1e-5)


def test_layers_that_share_a_kernel_are_refused() -> None:
  model = nnx.Sequential(linear(), nnx.relu, linear())
  model.layers[2].kernel = model.layers[0].kernel
  with pytest.raises(ValueError, match=r'share .*0/kernel, layers/2/kernel'):
    spectralize(model, [Rule('layers/2')])
  assert type(model.layers[2]) is nnx.Linear
  spectralize(model, [Rule('.*', keep=None)])  # as they are


@pytest.mark.parametrize(
  ('rules', 'message'),
  [
    ([Rule('.*/up'), Rule('tail')], r"^rules: 'tail' matches no layer; there"),
    ([Rule('.*'), Rule('head')], '^rules: .* that an earlier rule has not'),
    (
      [Rule('.*/up'), Rule('.*/out', keep=300)],
      '^blocks/0/attention/out: keep',
    ),
    (
      [Rule('.*/up'), Rule('head', keep=0.3, selection='strided')],
      '^head: keep: a strided selection',
    ),
    ([Rule('.*/up'), Rule('head', keep=10**6)], '^head: keep: expected 1 to'),
  ],
)
def test_after_an_error_nothing_has_changed(
  rules: list[Rule], message: str
) -> None:
  model = transformer()
  graphdef, before = nnx.split(model)
  with pytest.raises(ValueError, match=message):
    spectralize(model, rules)
  after = nnx.split(model)
  assert after[0] == graphdef
  jax.tree.map(np.testing.assert_array_equal, after[1], before)


@pytest.mark.parametrize(
  ('change', 'layer'),
  [
    (lambda model: spectralize(model, [Rule('.*')]), linear),
    (densify, lambda: SpectralLinear(8, 8, rngs=nnx.Rngs(0))),
  ],
)
def test_a_lone_layer_cannot_be_replaced(
  change: Callable[[Any], None], layer: Callable[[], Any]
) -> None:
  with pytest.raises(ValueError, match=r'^model: expected a .* that'):
    change(layer())


def test_where_the_model_is_made_abstractly_or_under_jit() -> None:
  def make() -> Transformer:
    model = Transformer(Config(layers=1), rngs=nnx.Rngs(0))
    spectralize(model, RULES)
    return model

  eager, abstract, jitted = make(), nnx.eval_shape(make), nnx.jit(make)()
  assert shapes(abstract) == shapes(jitted) == shapes(eager)
  assert find_layers(abstract) == find_layers(jitted) == find_layers(eager)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    nnx.state(jitted),
    nnx.state(eager),
  )


class Step(nnx.Module):
  """Two layers, of which a stack is made."""

  def __init__(self, rngs: nnx.Rngs):
    self.up = nnx.Linear(6, 8, bias_init=NORMAL, rngs=rngs)
    self.down = nnx.LinearGeneral(
      (2, 4), 6, axis=(-2, -1), batch_axis={0: 2}, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return nnx.tanh(self.down(self.up(x).reshape(2, 3, 2, 4)))


def stack(make: Callable[[nnx.Rngs], Step]) -> Step:
  return nnx.jit(nnx.split_rngs(splits=3)(nnx.vmap(make)))(nnx.Rngs(0))


@nnx.jit
@nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
def scan(step: Step, x: jax.Array) -> jax.Array:
  return step(x)


def test_a_stack_of_layers_there_and_back() -> None:
  model, x = stack(Step), draw(2, 3, 6)
  expected = scan(model, x)
  spectralize(model, [Rule('.*', keep=1.0)], project=True)
  np.testing.assert_allclose(scan(model, x), expected, atol=1e-5)
  densify(model)
  assert model.down.kernel.shape == (3, 2, 2, 4, 6)
  np.testing.assert_allclose(scan(model, x), expected, atol=1e-5)


def test_a_stack_is_the_same_made_of_spectral_layers() -> None:
  rule = Rule('.*', keep=0.25, selection='band')

  def make(rngs: nnx.Rngs) -> Step:
    step = Step(rngs)
    spectralize(step, [rule])
    return step

  model, made = stack(Step), stack(make)
  spectralize(model, [rule])
  seeds = {path: rule.arguments(path)['seed'] for path in ('up', 'down')}
  up = Selection('band', (6, 8), 12, seeds['up'])
  down = Selection('band', (8, 6), 12, seeds['down'])
  assert find_layers(model) == {
    'up': SpectralKernel(up, shape=(3, 6, 8), stack=(0,)),
    'down': SpectralKernel(down, shape=(3, 2, 2, 4, 6), stack=(0, 1)),
  }
  assert find_layers(made) == find_layers(model)
  assert model.down.coefficients.shape == (3, 2, 12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    nnx.state(made),
    nnx.state(model),
  )
  graphdef, state = nnx.split(model)
  one = x = draw(2, 3, 6)
  for i in range(3):
    step = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
    one = run(step, one)
  np.testing.assert_allclose(scan(model, x), one, atol=1e-5)


def test_a_stack_along_other_axes_is_refused() -> None:
  model = nnx.Sequential(linear())
  model.layers[0].kernel = nnx.Param(jnp.ones((8, 3, 8)))
  message = r'^layers/0: parameters: expected shape \(8, 8\), .*\(8, 3, 8\)'
  with pytest.raises(ValueError, match=message):
    spectralize(model, [Rule('.*')])
  assert type(model.layers[0]) is nnx.Linear
