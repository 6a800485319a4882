"""The NNX layers against NNX's own, and bit for bit against the linen ones."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from flax import nnx

from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.linear_general_nnx import SpectralLinearGeneral
from spectral_jax.layers.linear_nnx import SpectralLinear

N, M = 12, 8
PAIRS = [
  (SpectralLinear, nnx.Linear),
  (SpectralLinearGeneral, nnx.LinearGeneral),
]
NORMAL = nnx.initializers.normal()
# in_features, out_features, axis, batch_axis, and the shape of inputs.
GENERAL = {
  'heads': (N, (2, 4), -1, {}, (2, 3, N)),
  'merge': ((2, 4), N, (-2, -1), {}, (3, 2, 4)),
  'apart': ((2, 6), (4, 2), (1, -1), {}, (3, 2, 5, 6)),
  'batch': (N, (2, 4), -1, {0: 3}, (3, 5, N)),
  'turned': ((4, 4), (4, 2), (-1, 1), {}, (3, 4, 5, 4)),
  'batches': ((2, 6), (4,), (-2, -1), {0: 2, 1: 3}, (2, 3, 5, 2, 6)),
}


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def filled(make: Callable[[], Any]) -> Any:
  """The layer with random numbers, without the time to compile its init."""
  random = np.random.default_rng(0)
  layer = nnx.eval_shape(make)
  numbers = jax.tree.map(
    lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype),
    nnx.state(layer),
  )
  nnx.update(layer, numbers)
  return layer


def kernel_of(layer: SpectralLinearGeneral) -> jax.Array:
  return layer.stored.rebuild(layer.coefficients[...], layer.method)


def assert_same_bits(
  layer: Any, linen: Any, x: jax.Array, *, jit: bool = True
) -> None:
  params = {'coefficients': layer.coefficients[...]}
  if layer.bias is not None:
    params['bias'] = layer.bias[...]
  call, apply = (lambda m, x: m(x)), linen.apply
  if jit:
    call, apply = nnx.jit(call), jax.jit(apply)
  np.testing.assert_array_equal(call(layer, x), apply({'params': params}, x))


@pytest.mark.parametrize(('ours', 'theirs'), PAIRS)
def test_the_arguments_are_nnxs_and_then_ours(ours: Any, theirs: Any) -> None:
  for method in ('__init__', '__call__'):
    mine, its = (
      [
        (p.name, p.kind, p.default)
        for p in inspect.signature(getattr(layer, method)).parameters.values()
      ]
      for layer in (ours, theirs)
    )
    assert mine[: len(its)] == its
    added = {
      'keep': 0.5,
      'selection': 'random',
      'seed': 0,
      'method': 'auto',
      'basis': 'dct',
    }
    assert mine[len(its) :] == [
      (name, inspect.Parameter.KEYWORD_ONLY, default)
      for name, default in added.items()
      if method == '__init__'
    ]


@pytest.mark.parametrize(
  ('kind', 'method', 'use_bias'),
  [
    *((kind, 'auto', True) for kind in KINDS),
    ('band', 'idctn', True),
    ('strided', 'factored', True),
    ('block', 'fused', True),
    ('random', 'gemm', False),
  ],
)
def test_linear_is_the_linen_layer(
  kind: str, method: str, use_bias: bool
) -> None:
  ours = {'keep': 0.25, 'selection': kind, 'seed': 7, 'method': method}
  layer = filled(
    lambda: SpectralLinear(N, M, use_bias=use_bias, rngs=nnx.Rngs(0), **ours)
  )
  linen, x = SpectralDense(M, use_bias, **ours), draw(5, 3, N)
  assert_same_bits(layer, linen, x)
  assert_same_bits(layer, linen, x, jit=False)


@pytest.mark.parametrize(
  ('kind', 'case'),
  [
    *((kind, 'batches') for kind in KINDS),
    *(('random', case) for case in ('heads', 'merge', 'apart', 'batch')),
  ],
)
def test_linear_general_is_the_linen_layer(kind: str, case: str) -> None:
  inputs, outputs, axis, batch_axis, shape = GENERAL[case]
  ours = {'keep': 0.25, 'selection': kind, 'seed': 7}
  layer = filled(
    lambda: SpectralLinearGeneral(
      inputs,
      outputs,
      axis=axis,
      batch_axis=batch_axis,
      rngs=nnx.Rngs(0),
      **ours,
    )
  )
  linen = SpectralDenseGeneral(outputs, axis, tuple(batch_axis), **ours)
  x = draw(*shape)
  assert layer.stored == linen.stored(shape)
  assert layer.coefficients.shape == layer.stored.layout
  assert_same_bits(layer, linen, x)
  if case == 'heads':
    assert_same_bits(layer, linen, x, jit=False)


@pytest.mark.parametrize('kind', ['lowpass', 'random', 'strided'])
def test_all_coefficients_are_the_drawn_linear(kind: str) -> None:
  dense = nnx.Linear(N, M, bias_init=NORMAL, rngs=nnx.Rngs(3))
  layer = SpectralLinear(
    N, M, bias_init=NORMAL, rngs=nnx.Rngs(3), keep=1.0, selection=kind
  )
  np.testing.assert_allclose(kernel_of(layer), dense.kernel[...], atol=1e-6)
  np.testing.assert_array_equal(layer.bias[...], dense.bias[...])
  x = draw(5, N)
  np.testing.assert_allclose(layer(x), dense(x), atol=1e-5)


@pytest.mark.parametrize('case', ['turned', 'batches'])
def test_all_coefficients_are_the_drawn_linear_general(case: str) -> None:
  inputs, outputs, axis, batch_axis, shape = GENERAL[case]
  dense, layer = (
    make(
      inputs,
      outputs,
      axis=axis,
      batch_axis=batch_axis,
      bias_init=NORMAL,
      rngs=nnx.Rngs(3),
      **more,
    )
    for make, more in (
      (nnx.LinearGeneral, {}),
      (SpectralLinearGeneral, {'keep': 1.0}),
    )
  )
  np.testing.assert_allclose(kernel_of(layer), dense.kernel[...], atol=1e-6)
  np.testing.assert_array_equal(layer.bias[...], dense.bias[...])
  x = draw(*shape)
  np.testing.assert_allclose(layer(x), dense(x), atol=1e-5)


def test_the_gradient_is_the_dct_of_the_dense_gradient() -> None:
  layer = SpectralLinear(N, M, keep=0.25, seed=3, rngs=nnx.Rngs(0))
  x_5xN, weight_5xM = draw(5, N), draw(5, M, seed=1)
  grads = nnx.jit(nnx.grad(lambda m: jnp.vdot(weight_5xM, m(x_5xN))))(layer)
  dense_gradient = np.asarray(x_5xN, np.float64).T @ np.asarray(weight_5xM)
  plane = scipy.fft.dctn(dense_gradient, norm='ortho')
  positions = Selection.of('random', (N, M), 0.25, seed=3).positions
  np.testing.assert_allclose(
    grads['coefficients'][...], plane.flat[positions], atol=1e-5
  )
  np.testing.assert_allclose(
    grads['bias'][...], weight_5xM.sum(0), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  ('settings', 'inputs', 'expected'),
  [
    ({}, 'float32', 'float32'),
    ({}, 'bfloat16', 'float32'),
    ({'dtype': 'bfloat16'}, 'float32', 'bfloat16'),
    ({'param_dtype': 'bfloat16'}, 'bfloat16', 'bfloat16'),
    (
      {'dtype': 'bfloat16', 'preferred_element_type': 'float32'},
      'bfloat16',
      'float32',
    ),
  ],
)
@pytest.mark.parametrize('pair', PAIRS)
def test_dtypes_are_nnxs(
  pair: Any, settings: dict[str, Any], inputs: str, expected: str
) -> None:
  x = draw(5, N).astype(inputs)
  more = {'keep': 1.0}
  layer, dense = (
    make(N, M, bias_init=NORMAL, rngs=nnx.Rngs(0), **settings, **ours)
    for make, ours in zip(pair, (more, {}), strict=True)
  )
  params = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))}
  assert params == {jnp.dtype(settings.get('param_dtype', 'float32'))}
  outputs = layer(x)
  assert outputs.dtype == dense(x).dtype == expected
  np.testing.assert_allclose(
    outputs.astype('float32'), dense(x).astype('float32'), atol=0.1
  )


@pytest.mark.parametrize(
  ('layer', 'field'),
  [
    (SpectralLinear, 'dot_general'),
    (SpectralLinearGeneral, 'dot_general'),
    (SpectralLinearGeneral, 'dot_general_cls'),
  ],
)
def test_the_product_can_be_replaced(layer: Any, field: str) -> None:
  seen = []

  def dot_general(lhs: Any, rhs: Any, dimensions: Any, **settings: Any) -> Any:
    seen.append((rhs.shape, settings))
    return 2 * jax.lax.dot_general(lhs, rhs, dimensions)

  given = dot_general if field == 'dot_general' else lambda: dot_general
  x = draw(5, N)
  doubled = layer(N, M, precision='highest', rngs=nnx.Rngs(0), **{field: given})
  plain = layer(N, M, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(
    doubled(x, out_sharding='here'), 2 * plain(x), atol=1e-5
  )
  settings = {'precision': 'highest', 'out_sharding': 'here'}
  assert seen == [((N, M), settings)]


def test_outputs_are_sharded_as_asked() -> None:
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Explicit,))
  layer = SpectralLinear(N, M, rngs=nnx.Rngs(0))
  expected = layer(jnp.ones((8, N)))
  with jax.set_mesh(mesh):
    sharded = jax.sharding.PartitionSpec('data', None)
    layer = SpectralLinear(N, M, rngs=nnx.Rngs(0))
    outputs = nnx.jit(lambda m, x: m(x, out_sharding=sharded))(
      layer, jnp.ones((8, N))
    )
  assert outputs.sharding.spec == sharded
  np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_the_promotion_can_be_replaced() -> None:
  def promote(arrays: tuple[Any, ...], *, dtype: Any) -> tuple[Any, ...]:
    assert dtype is None
    return tuple(array.astype(jnp.float16) for array in arrays)

  layer = SpectralLinear(N, M, promote_dtype=promote, rngs=nnx.Rngs(0))
  assert layer(draw(5, N)).dtype == jnp.float16


@pytest.mark.parametrize('layer', [SpectralLinear, SpectralLinearGeneral])
def test_names_of_axes_stay_with_the_bias_alone(layer: Any) -> None:
  plain = layer(N, M, bias_init=NORMAL, rngs=nnx.Rngs(0))
  with nnx.use_eager_sharding(False):
    given = layer(
      N,
      M,
      bias_init=NORMAL,
      kernel_metadata={'out_sharding': (None, 'tensor'), 'decay': 0.1},
      bias_metadata={'out_sharding': ('tensor',)},
      rngs=nnx.Rngs(0),
    )
    boxed = layer(
      N,
      M,
      kernel_init=nnx.with_partitioning(
        nnx.initializers.lecun_normal(), (None, 'tensor')
      ),
      bias_init=nnx.with_partitioning(NORMAL, ('tensor',)),
      rngs=nnx.Rngs(0),
    )
  assert given.coefficients.get_metadata('decay') == 0.1
  for other in (given, boxed):
    assert not other.coefficients.has_metadata('out_sharding')
    assert other.bias.get_metadata('out_sharding') == ('tensor',)
    for name in ('coefficients', 'bias'):
      np.testing.assert_array_equal(
        getattr(other, name)[...], getattr(plain, name)[...]
      )


@pytest.mark.parametrize(
  ('layer', 'settings', 'message'),
  [
    (SpectralLinear, {'keep': 0.0}, '^keep: expected a fraction above 0'),
    (
      SpectralLinear,
      {'keep': 0.3, 'selection': 'strided'},
      '^keep: a strided selection',
    ),
    (SpectralLinear, {'selection': 'zigzag'}, '^selection: expected one of'),
    (SpectralLinear, {'method': 'fast'}, '^method: expected one of'),
    (SpectralLinear, {'basis': 'sine'}, '^basis: expected one of'),
    (
      SpectralLinear,
      {'method': 'idctn', 'basis': 'orthonormal'},
      "^method: 'idctn' has no basis",
    ),
    (SpectralLinearGeneral, {'axis': (0, 1)}, '^in_features: expected one for'),
    (SpectralLinearGeneral, {'batch_axis': {1: 2}}, '^batch_axis: expected'),
  ],
)
def test_impossible_arguments_raise(
  layer: Any, settings: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    layer(N, M, rngs=nnx.Rngs(0), **settings)
