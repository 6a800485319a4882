"""`SpectralDenseGeneral` against `nn.DenseGeneral`."""

import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.convert.project import to_spectral
from spectral_jax.core.selection import KINDS
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.find_layers import find_layers


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
  ('shape', 'arguments', 'stored'),
  [
    ((5, 12), {'features': 8}, (96,)),
    ((5, 12), {'features': (2, 4)}, (96,)),
    ((5, 3, 4), {'features': 8, 'axis': (-2, -1)}, (96,)),
    ((3, 5, 4), {'features': (4, 2), 'axis': (-1, 0)}, (96,)),
    ((2, 5, 12), {'features': 8, 'batch_dims': (0,)}, (2, 96)),
    (
      (2, 3, 5, 4, 3),
      {'features': (2, 4), 'axis': (-1, -2), 'batch_dims': (0, 1)},
      (2, 3, 96),
    ),
    ((5, 12), {'features': 8, 'use_bias': False}, (96,)),
  ],
)
def test_full_k_equals_dense_general(
  shape: tuple[int, ...], arguments: Any, stored: tuple[int, ...]
) -> None:
  x = draw(*shape)
  dense = nn.DenseGeneral(**arguments, bias_init=nn.initializers.normal())
  layer = SpectralDenseGeneral(**arguments, keep=1.0, selection='lowpass')
  variables = dense.init(jax.random.key(1), x)
  projected = to_spectral(variables, find_layers(layer, x))
  assert projected['params']['coefficients'].shape == stored
  np.testing.assert_allclose(
    layer.apply(projected, x), dense.apply(variables, x), atol=1e-5
  )
  factored = layer.clone(method='factored')
  if 'batch_dims' in arguments:
    with pytest.raises(ValueError, match=r'^method: .* stack of them'):
      factored.apply(projected, x)
  else:
    np.testing.assert_allclose(
      factored.apply(projected, x), dense.apply(variables, x), atol=1e-5
    )


def test_full_k_draws_the_kernel_that_dense_general_draws() -> None:
  x = draw(2, 5, 12)
  arguments: Any = {'features': (2, 4), 'batch_dims': (0,)}
  drawn, stored = (
    layer.init(jax.random.key(1), x)['params']
    for layer in (
      nn.DenseGeneral(**arguments),
      SpectralDenseGeneral(**arguments, keep=1.0),
    )
  )
  layers = find_layers(SpectralDenseGeneral(**arguments, keep=1.0), x)
  np.testing.assert_allclose(
    to_spectral(drawn, layers)['coefficients'],
    stored['coefficients'],
    atol=1e-6,
  )


@pytest.mark.parametrize('kind', KINDS)
def test_one_axis_is_spectral_dense(kind: str) -> None:
  x = draw(5, 12)
  one, general = (
    layer(8, keep=0.25, selection=kind, seed=3)
    for layer in (SpectralDense, SpectralDenseGeneral)
  )
  params = one.init(jax.random.key(1), x)
  jax.tree.map(
    np.testing.assert_array_equal, params, general.init(jax.random.key(1), x)
  )
  np.testing.assert_array_equal(one.apply(params, x), general.apply(params, x))


def test_the_fields_are_dense_generals_and_then_ours() -> None:
  ours, theirs = (
    {
      field.name: field.default
      for field in dataclasses.fields(layer)
      if field.name not in ('parent', 'name', 'kernel_init', 'bias_init')
    }
    for layer in (SpectralDenseGeneral, nn.DenseGeneral)
  )
  assert list(ours)[: len(theirs)] == list(theirs)
  assert {name: ours[name] for name in theirs} == theirs
  names, denses = (
    list(inspect.signature(layer).parameters)
    for layer in (SpectralDenseGeneral, nn.DenseGeneral)
  )
  assert names[: len(denses) - 2] == denses[:-2]  # parent and name come last


def test_batch_dims_must_lead() -> None:
  layer = SpectralDenseGeneral(8, batch_dims=(1,))
  with pytest.raises(ValueError, match=r'^batch_dims: expected leading axes'):
    layer.init(jax.random.key(0), draw(2, 3, 12))


def test_bfloat16_parameters_and_a_dot_of_ones_own() -> None:
  called = []

  def dot(*args: Any, **kwargs: Any) -> jax.Array:
    called.append(kwargs)
    return jax.lax.dot_general(*args, **kwargs)

  layer = SpectralDenseGeneral(
    (2, 4), param_dtype=jnp.bfloat16, precision='high', dot_general=dot
  )
  params = layer.init(jax.random.key(0), draw(5, 12))['params']
  assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(jnp.bfloat16)}
  assert called == [{'precision': 'high'}]
