"""Products by tall kernels: those of `dot_general`, however differentiated."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from spectral_jax.core.platform import planned_for
from spectral_jax.core.tall import matmul

# Inputs [..., T, N] and kernels [..., N, M]: tall, wide, and in batches.
SHAPES = [
  ((5, 6), (6, 3)),
  ((5, 3), (3, 6)),
  ((5, 6), (6, 1)),
  ((0, 6), (6, 3)),
  ((2, 4, 5, 6), (2, 4, 6, 3)),
]
TALL = SHAPES[0]


def draw(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(sum(shape)), shape)


def assert_equal(ours: Any, theirs: Any) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    ours,
    theirs,
  )


@pytest.mark.parametrize(('inputs', 'kernel'), SHAPES)
def test_it_equals_matmul_in_both_modes(
  inputs: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
  x, w = draw(*inputs), draw(*kernel)
  along = jnp.cos(x), jnp.sin(w)

  def both(product: Any) -> Any:
    outputs, pull_back = jax.vjp(product, x, w)
    gradients = pull_back(jnp.sin(outputs))
    return outputs, gradients, jax.jvp(product, (x, w), along)

  assert_equal(jax.jit(both, static_argnums=0)(matmul), both(jnp.matmul))


def test_gradients_of_gradients() -> None:
  x, w = (draw(*shape) for shape in TALL)
  check_grads(lambda x, w: jnp.sin(matmul(x, w)), (x, w), order=2)


@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0)])
def test_stacks_of_kernels_and_of_inputs(axes: tuple[Any, Any]) -> None:
  x, w = (
    draw(*shape) if axis is None else draw(3, *shape)
    for axis, shape in zip(axes, TALL, strict=True)
  )

  def gradient(product: Any) -> Any:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
      return jnp.sum(jnp.sin(jax.vmap(product, axes)(x, w)))

    return [jax.grad(loss, each)(x, w) for each in (0, 1, (0, 1))]

  assert_equal(gradient(matmul), gradient(jnp.matmul))


def test_outputs_can_be_wider_than_what_is_multiplied() -> None:
  x, w = (draw(*shape).astype(jnp.bfloat16) for shape in TALL)
  wide = functools.partial(matmul, preferred_element_type=jnp.float32)
  outputs, pull_back = jax.vjp(wide, x, w)
  exact = np.asarray(x, np.float32) @ np.asarray(w, np.float32)
  assert_equal(outputs, exact)
  assert {each.dtype for each in pull_back(outputs)} == {jnp.dtype('bfloat16')}


def gradient_program(
  platform: str, shapes: Any, argnums: int | tuple[int, ...], **settings: Any
) -> str:
  def loss(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.sum(matmul(x, w, **settings) ** 2)

  with planned_for(platform):
    grad = jax.grad(loss, argnums)
    return str(jax.make_jaxpr(grad)(*(draw(*shape) for shape in shapes)))


def products(program: str) -> list[str]:
  """The shapes of the outputs of the products, in order."""
  return re.findall(r':f32\[([\d,]+)\] = dot_general', program)


def test_the_gradient_of_a_tall_kernel_is_that_of_its_transpose() -> None:
  program = gradient_program('cpu', TALL, 1)
  assert products(program) == ['5,3', '3,6']  # outputs [T, M], then [M, N]
  # Both what is transposed before and the transpose are kept as they are.
  kept = re.findall(r':f32\[([\d,]+)\] = optimization_barrier', program)
  assert {'3,5', '3,6'} <= set(kept)


@pytest.mark.parametrize(
  ('platform', 'shapes'), [('tpu', TALL), ('gpu', TALL), ('cpu', SHAPES[1])]
)
def test_elsewhere_nothing_is_kept_from_the_compiler(
  platform: str, shapes: Any
) -> None:
  program = gradient_program(platform, shapes, 1)
  assert 'optimization_barrier' not in program


def test_the_precision_is_that_of_all_three_products() -> None:
  program = gradient_program('cpu', TALL, (0, 1), precision='highest')
  assert len(products(program)) == program.count('precision=(Precision.HIGHEST')
  assert len(products(program)) == 3


@pytest.mark.parametrize('argnums', [0, 1])
def test_what_is_not_asked_for_is_not_multiplied(argnums: int) -> None:
  assert len(products(gradient_program('cpu', TALL, argnums))) == 2
  assert len(products(gradient_program('cpu', TALL, (0, 1)))) == 3
