"""Somebody's NNX transformer becomes spectral by rules, and dense again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from spectral_jax.layers.linear_general_nnx import SpectralLinearGeneral
from spectral_jax.layers.linear_nnx import SpectralLinear
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.swap_nnx import densify, find_layers, spectralize
from tests.layers.nnx_layers import NORMAL, draw, linear, run, shapes
from tests.layers.nnx_transformer import Config, Transformer, train_step

RULES = (
  Rule('head', keep=None),
  Rule('blocks/.*/attention/.*', keep=0.5, selection='strided'),
  Rule('.*', keep=0.25),
)


@functools.cache
def _made() -> tuple[Any, Any]:
  return nnx.split(nnx.jit(lambda: Transformer(Config(), rngs=nnx.Rngs(0)))())


def transformer() -> Transformer:
  return nnx.merge(*_made())


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
