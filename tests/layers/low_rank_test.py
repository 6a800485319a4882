"""The low-rank baseline: what it computes, stores and starts from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.layers.low_rank import LowRankDense


@pytest.mark.parametrize('use_bias', [True, False])
def test_it_computes_the_product_of_its_factors(use_bias: bool) -> None:
  layer = LowRankDense(features=7, rank=3, use_bias=use_bias)
  x_4x2x5 = jax.random.normal(jax.random.key(0), (4, 2, 5))
  params = layer.init(jax.random.key(1), x_4x2x5)['params']
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (
    3 * (5 + 7) + (7 if use_bias else 0)
  )
  kernel = np.asarray(params['down']) @ np.asarray(params['up'])
  expected = np.asarray(x_4x2x5) @ kernel
  if use_bias:
    params['bias'] = jnp.arange(7.0)
    expected = expected + np.arange(7.0)[None, None]
  outputs = layer.apply({'params': params}, x_4x2x5)
  np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('rank', 'kernel_init', 'variance'),
  [
    (4, nn.initializers.lecun_normal(), 1 / 192),
    (
      32,
      nn.initializers.variance_scaling(0.25, 'fan_out', 'uniform'),
      1 / 1024,
    ),
  ],
)
def test_the_initial_product_has_the_variance_asked_for(
  rank: int, kernel_init: Any, variance: float
) -> None:
  layer = LowRankDense(features=256, rank=rank, kernel_init=kernel_init)
  params = layer.init(jax.random.key(0), jnp.ones((1, 192)))['params']
  kernel = np.asarray(params['down']) @ np.asarray(params['up'])
  assert np.mean(kernel**2) == pytest.approx(variance, rel=0.2)
  assert np.linalg.matrix_rank(kernel) == rank


@pytest.mark.parametrize('rank', [0, 6])
def test_an_impossible_rank_raises(rank: int) -> None:
  layer = LowRankDense(features=7, rank=rank)
  with pytest.raises(
    ValueError, match=f'^rank: expected 1 to 5 for a 5×7 kernel, got {rank}'
  ):
    layer.init(jax.random.key(0), jnp.ones((1, 5)))


@pytest.mark.parametrize(
  ('dtype', 'param_dtype', 'expected'),
  [
    (None, 'float32', 'float32'),
    (None, 'bfloat16', 'float32'),
    ('bfloat16', 'float32', 'bfloat16'),
  ],
)
def test_dtypes(dtype: str | None, param_dtype: str, expected: str) -> None:
  layer = LowRankDense(7, 3, dtype=dtype, param_dtype=param_dtype)
  outputs, params = jax.eval_shape(
    layer.init_with_output, jax.random.key(0), jnp.ones((1, 5))
  )
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype(param_dtype)
  }
  assert outputs.dtype == expected
