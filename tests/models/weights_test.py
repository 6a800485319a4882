"""Weights in memory: the same function, and as many bytes as are told."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.packed import PackedConfig
from spectral_jax.models.generate import generate
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.models.weights import place_weights

KEY = jax.random.key(0)
TOKENS = jax.random.randint(KEY, (2, 6), 0, 11)


def make(**fields: Any) -> tuple[Transformer, Any]:
  linear = LinearConfig(**{'selection': 'random', 'keep': 0.25} | fields)
  shape = {'context': 6, 'width': 16, 'layers': 2, 'heads': 2}
  model = Transformer(11, TransformerConfig(**shape, linear=linear))
  return model, model.init(KEY, TOKENS)['params']


def size(params: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('selection', ['strided', 'random', 'lowpass'])
@pytest.mark.parametrize('weights', ['merged', 'coefficients'])
def test_the_function_stays(selection: str, weights: str) -> None:
  model, params = make(selection=selection)
  placed, own = place_weights(model, params, weights)
  np.testing.assert_allclose(
    placed.apply({'params': own}, TOKENS),
    model.apply({'params': params}, TOKENS),
    atol=1e-5,
  )
  kind = placed.config.linear.kind
  assert kind == ('dense' if weights == 'merged' else 'spectral')
  again, same = place_weights(placed, own, weights)
  assert again == placed
  assert jax.tree.all(jax.tree.map(lambda a, b: a is b, own, same))


@pytest.mark.long
def test_scanned_stacks_are_packed() -> None:
  model, _ = make()
  config = TransformerConfig(**vars(model.config) | {'scan': True})
  model = Transformer(11, config)
  params = model.init(KEY, TOKENS)['params']
  placed, own = place_weights(model, params, 'coefficients')
  np.testing.assert_allclose(
    placed.apply({'params': own}, TOKENS),
    model.apply({'params': params}, TOKENS),
    atol=1e-5,
  )


def test_auto_merges_what_fits() -> None:
  model, params = make()
  merged = place_weights(model, params, 'merged')
  packed = place_weights(model, params, 'coefficients')
  assert size(packed[1]) < size(merged[1])
  assert place_weights(model, params)[0] == merged[0]
  for memory, expected in (
    (size(merged[1]), merged),
    (size(merged[1]) - 1, packed),
    (size(packed[1]), packed),
  ):
    assert place_weights(model, params, memory=memory)[0] == expected[0]
  with pytest.raises(ValueError, match=r'memory: expected at least .*smaller'):
    place_weights(model, params, memory=size(packed[1]) - 1)
  with pytest.raises(ValueError, match="take weights='coefficients'"):
    place_weights(model, params, 'merged', memory=size(packed[1]))
  with pytest.raises(ValueError, match='no smaller form'):
    place_weights(*merged, memory=100)


def test_what_cannot_be_is_refused() -> None:
  model, params = make(basis='orthonormal')
  assert place_weights(model, params)[0].config.linear.kind == 'dense'
  with pytest.raises(ValueError, match=r"'orthonormal'.*take 'merged'"):
    place_weights(model, params, 'coefficients')
  with pytest.raises(ValueError, match=r"weights: expected .*got 'small'"):
    place_weights(model, params, 'small')


def test_generated_text_is_the_same_from_either() -> None:
  model, params = make()
  arguments: Any = {'length': 40, 'key': KEY, 'samples': 2}
  one, other = (
    generate(model, params, np.array([3]), weights=weights, **arguments)
    for weights in ('merged', 'coefficients')
  )
  np.testing.assert_array_equal(one, other)
  assert len(np.unique(one)) > 5


def test_no_kernel_is_built_of_coefficients() -> None:
  """Parameters, constants and temporaries, as the compiler counts them."""
  config = LinearConfig(selection='random', keep=0.25)
  taken = {}
  for name, linear in (
    ('dense', LinearConfig('dense')),
    ('packed', PackedConfig(**vars(config))),
    (
      'strided',
      LinearConfig(selection='strided', keep=0.25, method='factored'),
    ),
  ):
    model = Transformer(
      11, TransformerConfig(width=128, layers=1, context=8, linear=linear)
    )
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, KEY, token)['params']
    compiled = jax.jit(model.apply).lower({'params': params}, token).compile()
    sizes: Any = compiled.memory_analysis()
    taken[name] = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
  kernels = 12 * 128**2 * 4
  # A quarter of the numbers, and a bit for each place: 1/32 of them. What is
  # temporary takes as much again at most; jaxlib 0.12 needs three times 0.10's.
  for name in ('packed', 'strided'):
    saved = taken['dense'] - taken[name]
    assert saved > (1 - 1 / 4 - 1 / 32 - 1 / 32) * kernels, name
