"""The product of a layer: of matrices on CPUs, and what it must not touch."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spectral_jax.core.platform import planned_for
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.layers.product import matrix_product
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.nnx import SpectralLinear

INIT = nn.initializers.lecun_normal()


def draw(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(len(shape)), shape)


@pytest.mark.parametrize(
  ('inputs', 'kernel', 'dimensions'),
  [
    ((2, 3, 4), (4, 5), (((2,), (0,)), ((), ()))),
    ((4,), (4, 5), (((0,), (0,)), ((), ()))),
    ((2, 3, 4), (3, 4, 5, 6), (((1, 2), (0, 1)), ((), ()))),
    ((0, 3, 4), (4, 5), (((2,), (0,)), ((), ()))),
    ((2, 3, 4), (3, 5), (((1,), (0,)), ((), ()))),
    ((2, 3, 4), (4, 3, 5), (((1, 2), (1, 0)), ((), ()))),
    ((2, 3, 4), (2, 4, 5), (((2,), (1,)), ((0,), (0,)))),
    ((2, 3), (2, 5), (((), ()), ((0,), (0,)))),
  ],
)
def test_it_equals_dot_general_forward_and_backward(
  inputs: tuple[int, ...], kernel: tuple[int, ...], dimensions: Any
) -> None:
  x, w = draw(*inputs), draw(*kernel)

  def both(product: Any) -> Any:
    outputs, pull_back = jax.vjp(lambda x, w: product(x, w, dimensions), x, w)
    return outputs, pull_back(jnp.sin(outputs))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    both(matrix_product),
    both(jax.lax.dot_general),
  )


@pytest.mark.parametrize(('platform', 'axes'), [('cpu', 2), ('tpu', 3)])
def test_on_cpus_no_gradient_is_transposed_first(
  platform: str, axes: int
) -> None:
  x, w = draw(2, 3, 4), draw(4, 5)

  def loss(w: jax.Array) -> jax.Array:
    with planned_for(platform):
      outputs = matrix_product(x, w, (((2,), (0,)), ((), ())))
    return jnp.sum(outputs**2)

  # `:f32[2,3,5] = dot_general` and the like.
  program = str(jax.make_jaxpr(jax.grad(loss))(w))
  shapes = re.findall(r':f32\[([\d,]+)\] = dot_general', program)
  assert shapes[0].count(',') + 1 == axes


def test_what_someone_has_placed_stays_where_it_is() -> None:
  axes = (AxisType.Explicit,) * 2
  mesh = jax.make_mesh((2, 2), ('data', 'sequence'), axis_types=axes)
  with jax.set_mesh(mesh):
    spec = PartitionSpec('data', 'sequence')
    x = jax.device_put(draw(4, 4, 6), NamedSharding(mesh, spec))
    product = jax.jit(matrix_product, static_argnums=2)
    outputs = product(x, draw(6, 8), (((2,), (0,)), ((), ())))
  assert jax.typeof(outputs).sharding.spec == PartitionSpec(
    'data', 'sequence', None
  )


LAYERS: dict[str, Callable[[], Callable[[jax.Array], Any]]] = {
  'dense': lambda: _applied(
    LinearConfig('dense').make(5, seed=0, kernel_init=INIT, name='out')
  ),
  'spectral': lambda: _applied(SpectralDense(5, method='fft')),
  'low_rank': lambda: _applied(LowRankDense(5, rank=2)),
  'nnx': lambda: SpectralLinear(4, 5, method='fft', rngs=nnx.Rngs(0)),
}


def _applied(layer: nn.Module) -> Callable[[jax.Array], Any]:
  return lambda x: layer.init_with_output(jax.random.key(0), x)[0]


@pytest.mark.parametrize(
  'layer',
  [
    LinearConfig('dense').make(4, seed=0, kernel_init=INIT, name='out'),
    SpectralDense(4, method='fft'),
    SpectralDense(4, selection='strided', method='folded'),
    LowRankDense(4, rank=2),
  ],
  ids=['dense', 'fft', 'folded', 'low_rank'],
)
def test_on_cpus_tall_kernels_have_gradients_by_their_transpose(
  layer: nn.Module,
) -> None:
  x = draw(2, 3, 8)
  params = layer.init(jax.random.key(0), x)

  def loss(params: Any) -> jax.Array:
    return jnp.sum(jnp.asarray(layer.apply(params, x)) ** 2)

  program = str(jax.make_jaxpr(jax.grad(loss))(params))
  assert 'optimization_barrier' in program


@pytest.mark.parametrize('name', LAYERS)
def test_layers_multiply_matrices(name: str) -> None:
  program = str(jax.make_jaxpr(LAYERS[name]())(draw(2, 3, 4)))
  shapes = re.findall(r':f32\[([\d,]+)\] = dot_general', program)
  assert '6,5' in shapes
  assert not [shape for shape in shapes if shape.startswith('2,3,')]


def test_so_does_the_whole_model() -> None:
  model = Transformer(7, TransformerConfig(context=3, width=8, heads=2))
  tokens = jnp.zeros((2, 3), jnp.int32)
  program = str(jax.make_jaxpr(model.init)(jax.random.key(0), tokens))
  shapes = re.findall(r':f32\[([\d,]+)\] = dot_general', program)
  assert '6,7' in shapes  # the head's logits
  assert not [shape for shape in shapes if shape.startswith('2,3,')]
