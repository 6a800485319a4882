"""Layers are found and replaced wherever in an NNX graph they stand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_jax.core.selection import Selection
from spectral_jax.layers.linear_nnx import SpectralLinear
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.layers.swap_nnx import densify, find_layers, spectralize
from tests.layers.nnx_layers import NORMAL, draw, linear, run, shapes
from tests.layers.nnx_transformer import Config, Transformer


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
    spectralize(model, [Rule('head', keep=None), Rule('.*', keep=0.25)])
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
