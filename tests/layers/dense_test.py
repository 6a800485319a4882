"""`SpectralDense` against `nn.Dense`, and its gradient against SciPy."""

import dataclasses
import inspect
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import (
  PRODUCTS,
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers import spectral_kernel
from spectral_jax.layers.dense import SpectralDense

N, M = 12, 8


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def with_random_bias(params: Any) -> Any:
  return {'params': {**params['params'], 'bias': draw(M, seed=9)}}


@pytest.mark.parametrize(
  ('kind', 'use_bias'), [*((kind, True) for kind in KINDS), ('random', False)]
)
def test_full_k_equals_dense_forward_and_backward(
  kind: str, use_bias: bool
) -> None:
  dense = nn.Dense(M, use_bias)
  layer = SpectralDense(M, use_bias, keep=1.0, selection=kind, seed=1)
  x_5x3xN = draw(5, 3, N)
  dense_params = dense.init(jax.random.key(1), x_5x3xN)['params']
  if use_bias:
    dense_params |= {'bias': draw(M, seed=9)}
  selection = Selection(kind, (N, M), N * M, seed=1)
  params = {k: v for k, v in dense_params.items() if k != 'kernel'}
  params['coefficients'] = coefficients_from_kernel(
    dense_params['kernel'], selection
  )

  def loss(
    model: nn.Module, params: Any, x: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    outputs = jnp.asarray(model.apply({'params': params}, x))
    return jnp.sum(jnp.sin(outputs)), outputs

  derive = jax.jit(jax.grad(loss, (1, 2), has_aux=True), static_argnums=0)
  (grads, x_grad), outputs = derive(layer, params, x_5x3xN)
  (dense_grads, dense_x_grad), dense_outputs = derive(
    dense, dense_params, x_5x3xN
  )
  np.testing.assert_allclose(outputs, dense_outputs, atol=1e-5)
  np.testing.assert_allclose(x_grad, dense_x_grad, atol=1e-5)
  grads['kernel'] = kernel_from_coefficients(
    grads.pop('coefficients'), selection
  )
  assert grads.keys() == dense_grads.keys()
  for name, grad in grads.items():
    np.testing.assert_allclose(grad, dense_grads[name], atol=1e-5)


@pytest.mark.parametrize(
  ('kind', 'method'),
  [
    *((kind, 'gemm') for kind in KINDS),
    ('random', 'idctn'),
    ('band', 'fft'),
    ('strided', 'factored'),
    ('block', 'factored'),
    ('strided', 'folded'),
    ('lowpass', 'folded'),
    ('strided', 'fused'),
  ],
)
def test_the_gradient_is_the_dct_of_the_dense_gradient(
  kind: str, method: str
) -> None:
  layer = SpectralDense(M, keep=0.25, selection=kind, seed=3, method=method)
  x_5xN, weight_5xM = draw(5, N), draw(5, M, seed=1)
  params = layer.init(jax.random.key(2), x_5xN)
  grads = jax.jit(
    jax.grad(lambda p: jnp.vdot(weight_5xM, layer.apply(p, x_5xN)))
  )(params)['params']
  selection = Selection.of(kind, (N, M), 0.25, seed=3)
  dense_gradient = np.asarray(x_5xN, np.float64).T @ np.asarray(weight_5xM)
  plane = scipy.fft.dctn(dense_gradient, norm='ortho')
  np.testing.assert_allclose(
    grads['coefficients'],
    plane.flat[selection.positions].reshape(selection.layout),
    atol=1e-5,
  )
  np.testing.assert_allclose(grads['bias'], weight_5xM.sum(0), atol=1e-5)


def test_the_fields_are_denses_and_then_ours() -> None:
  ours, denses = (
    {
      field.name: field
      for field in dataclasses.fields(layer)
      if field.name not in ('parent', 'name')
    }
    for layer in (SpectralDense, nn.Dense)
  )
  assert list(ours)[: len(denses)] == list(denses)
  assert list(ours)[len(denses) :] == [
    'keep',
    'selection',
    'seed',
    'method',
    'basis',
  ]
  key = jax.random.key(0)
  for name, field in denses.items():
    if name in ('kernel_init', 'bias_init'):  # equal closures are not equal
      np.testing.assert_array_equal(
        ours[name].default(key, (N, M)), field.default(key, (N, M))
      )
    else:
      assert ours[name].default == field.default
  assert list(inspect.signature(SpectralDense).parameters)[-2:] == [
    'parent',
    'name',
  ]


@pytest.mark.parametrize(
  ('keep', 'kind', 'count'),
  [
    (0.5, 'random', 48),
    (0.1, 'lowpass', 10),
    (7, 'block', 7),
    (0.25, 'strided', 24),
    (1e-9, 'random', 1),
  ],
)
def test_it_stores_k_numbers_and_needs_params_alone(
  keep: float, kind: str, count: int
) -> None:
  layer = SpectralDense(M, keep=keep, selection=kind)
  x_1xN = jnp.ones((1, N))
  variables = jax.eval_shape(layer.init, jax.random.key(0), x_1xN)
  assert variables.keys() == {'params'}
  assert variables['params'].keys() == {'coefficients', 'bias'}
  assert math.prod(variables['params']['coefficients'].shape) == count
  assert jax.eval_shape(layer.apply, variables, x_1xN).shape == (1, M)


def test_computing_in_bfloat16_keeps_float32_params() -> None:
  x_5xN = draw(5, N)
  params = with_random_bias(SpectralDense(M).init(jax.random.key(0), x_5xN))
  narrow = SpectralDense(M, dtype=jnp.bfloat16)
  for leaf in jax.tree.leaves(narrow.init(jax.random.key(0), x_5xN)):
    assert leaf.dtype == jnp.float32
  outputs = narrow.apply(params, x_5xN)
  assert outputs.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    outputs.astype(jnp.float32),
    SpectralDense(M).apply(params, x_5xN),
    atol=0.05,
  )
  grads = jax.grad(lambda p: narrow.apply(p, x_5xN).sum())(params)
  assert grads['params']['coefficients'].dtype == jnp.float32


@pytest.mark.parametrize('method', ['gemm', 'folded'])
def test_in_bfloat16_what_is_rebuilt_is_rebuilt_of_float32(method: str) -> None:
  x_5xN = draw(5, N)
  layer = SpectralDense(
    M, selection='strided', dtype=jnp.bfloat16, method=method
  )
  params = layer.init(jax.random.key(0), x_5xN)
  grads = jax.grad(lambda p: layer.apply(p, x_5xN).sum())(params)
  gradient = grads['params']['coefficients']
  rounded = gradient.astype(jnp.bfloat16).astype(jnp.float32)
  assert not np.array_equal(gradient, rounded)
  # What bfloat16 cannot tell apart makes other quarters.
  coefficients = params['params']['coefficients']
  nudged = {
    'params': {
      **params['params'],
      'coefficients': coefficients.astype(jnp.bfloat16).astype(jnp.float32),
    }
  }
  wide = jnp.ones((5, N)) * 64
  assert not np.array_equal(
    layer.apply(params, wide), layer.apply(nudged, wide)
  )


def test_the_plan_is_for_the_dtype_that_is_computed_in(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  seen = []
  real = spectral_kernel.plan

  def spy(*args: Any, **kwargs: Any) -> Any:
    seen.append(jnp.dtype(kwargs['dtype']).name)
    return real(*args, **kwargs)

  monkeypatch.setattr(spectral_kernel, 'plan', spy)
  x_5xN = draw(5, N).astype(jnp.bfloat16)
  for dtype in (None, jnp.bfloat16):
    SpectralDense(M, dtype=dtype).init(jax.random.key(0), x_5xN)
  assert seen == ['float32', 'bfloat16']


@pytest.mark.parametrize(
  ('param_dtype', 'input_dtype', 'expected'),
  [
    ('bfloat16', 'bfloat16', 'bfloat16'),
    ('bfloat16', 'float32', 'float32'),
    ('float32', 'bfloat16', 'float32'),
  ],
)
def test_dtypes_are_inferred_as_by_dense(
  param_dtype: str, input_dtype: str, expected: str
) -> None:
  x_5xN = jax.ShapeDtypeStruct((5, N), input_dtype)
  for layer in (SpectralDense, nn.Dense):
    outputs, params = jax.eval_shape(
      layer(M, param_dtype=param_dtype).init_with_output,
      jax.random.key(0),
      x_5xN,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
      jnp.dtype(param_dtype)
    }
    assert outputs.dtype == expected


@pytest.mark.parametrize('kind', ['random', 'strided'])
def test_under_jit_vmap_and_remat(kind: str) -> None:
  layer = SpectralDense(M, selection=kind)
  x_5x3xN = draw(5, 3, N)
  params = with_random_bias(layer.init(jax.random.key(0), x_5x3xN))
  expected = layer.apply(params, x_5x3xN)
  for apply in (jax.jit(layer.apply), jax.vmap(layer.apply, (None, 0))):
    np.testing.assert_allclose(apply(params, x_5x3xN), expected, atol=1e-5)

  def loss(model: nn.Module, params: Any) -> jax.Array:
    return jnp.sum(jnp.sin(jnp.asarray(model.apply(params, x_5x3xN))))

  rematted = nn.remat(SpectralDense)(M, selection=kind)
  grads, rematted_grads = (
    jax.jit(jax.grad(loss, 1), static_argnums=0)(model, params)
    for model in (layer, rematted)
  )
  np.testing.assert_allclose(
    rematted_grads['params']['coefficients'],
    grads['params']['coefficients'],
    atol=1e-5,
  )


def test_a_stack_of_layers_by_scan() -> None:
  class Step(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
      return nn.tanh(SpectralDense(N, selection='strided', name='one')(x)), None

  stack = nn.scan(
    Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=3
  )()
  x_5xN = draw(5, N)
  params = stack.init(jax.random.key(0), x_5xN, None)['params']['one']
  assert params['coefficients'].shape == (3, 2, N // 2, N // 2)
  outputs, _ = stack.apply({'params': {'one': params}}, x_5xN, None)
  expected = x_5xN
  for i in range(3):
    layer = SpectralDense(N, selection='strided')
    layer_params = jax.tree.map(lambda leaf, i=i: leaf[i], params)
    expected = nn.tanh(layer.apply({'params': layer_params}, expected))
  np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize('field', ['dot_general', 'dot_general_cls'])
def test_the_product_can_be_replaced(field: str) -> None:
  seen = []

  def dot_general(
    lhs: jax.Array, rhs: jax.Array, dimensions: Any, precision: Any
  ) -> jax.Array:
    seen.append((rhs.shape, precision))
    return 2 * jax.lax.dot_general(lhs, rhs, dimensions, precision)

  given = dot_general if field == 'dot_general' else lambda: dot_general
  x_5xN = draw(5, N)
  layer = SpectralDense(M, precision='highest', **{field: given})
  params = layer.init(jax.random.key(0), x_5xN)
  seen.clear()
  np.testing.assert_allclose(
    layer.apply(params, x_5xN),
    2 * SpectralDense(M).apply(params, x_5xN),
    atol=1e-5,
  )
  assert seen == [((N, M), 'highest')]


@pytest.mark.parametrize('method', PRODUCTS)
def test_a_kernel_can_be_had_where_none_is_built(method: str) -> None:
  stored = SpectralDense(M, selection='strided').stored((N,))
  coefficients = draw(*stored.layout)
  np.testing.assert_allclose(
    stored.rebuild(coefficients, method),
    stored.rebuild(coefficients, 'idctn'),
    atol=1e-5,
  )


@pytest.mark.parametrize('dot_general', [None, jax.lax.dot_general])
def test_for_a_tpu_a_layer_in_bfloat16_rebuilds_by_rounded_factors(
  dot_general: Any,
) -> None:
  def program(method: str, dtype: Any) -> str:
    layer = SpectralDense(
      64,
      selection='strided',
      method=method,
      dtype=dtype,
      dot_general=dot_general,
    )
    x = draw(2048, 64).astype(jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)
    with planned_for('tpu'):
      return str(jax.make_jaxpr(layer.apply)(params, x))

  rounded = program('gemm_bf16', jnp.bfloat16)
  assert program('auto', jnp.bfloat16) == rounded
  assert program('gemm', jnp.bfloat16) != rounded
  # The common dtype of inputs and coefficients is float32.
  assert program('auto', None) == program('gemm', None)


@pytest.mark.parametrize('method', PRODUCTS)
def test_a_product_of_one_s_own_gets_a_kernel(method: str) -> None:
  layer = SpectralDense(M, method=method, dot_general=jax.lax.dot_general)
  with pytest.raises(ValueError, match=f"^method: '{method}' builds no kernel"):
    layer.init(jax.random.key(0), draw(5, N))


def test_the_promotion_can_be_replaced() -> None:
  def promote(*arrays: jax.Array, dtype: Any) -> list[jax.Array]:
    assert dtype is None
    return [array.astype(jnp.float16) for array in arrays]

  layer = SpectralDense(M, promote_dtype=promote)
  params = layer.init(jax.random.key(0), draw(5, N))
  assert layer.apply(params, draw(5, N)).dtype == jnp.float16


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'keep': 0.0}, '^keep: expected a fraction above 0'),
    ({'keep': 97}, '^keep: expected 1 to 96 coefficients of a 12×8 kernel'),
    ({'keep': 0.3, 'selection': 'strided'}, '^keep: a strided selection'),
    ({'selection': 'zigzag'}, "^selection: expected one of .*, got 'zigzag'"),
    ({'method': 'fast'}, "^method: expected one of .*, got 'fast'"),
  ],
)
def test_impossible_fields_raise(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    SpectralDense(M, **fields).init(jax.random.key(0), draw(1, N))
