"""The layer without its kernel, against the kernel by SciPy in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from spectral_jax.core.factored import factored_product
from spectral_jax.core.folded import folded_product
from spectral_jax.core.platform import planned_for
from spectral_jax.core.selection import Selection
from tests.core.reconstruct_test import (
  SELECTIONS,
  draw,
  relative_error,
  scipy_coefficients,
  scipy_kernel,
)

TOKENS = 5
Product = Callable[..., jax.Array]
both_ways = pytest.mark.parametrize(
  'product', [factored_product, folded_product]
)


@both_ways
@pytest.mark.parametrize('i', [0, 1, 2, 4, 6, 9, 10, 11, 12])
def test_it_equals_the_kernel_forward_and_backward(
  i: int, product: Product
) -> None:
  assert error_of_layer(product, SELECTIONS[i]) < 1e-5


def error_of_layer(product: Product, selection: Selection) -> float:
  """The largest of outputs and both gradients, against SciPy's kernel."""
  n, m = selection.shape
  inputs, coefficients = draw((TOKENS, n)), draw(selection.layout, seed=1)
  cotangent = draw((TOKENS, m), seed=2)

  @jax.jit
  def both(x: jax.Array, c: jax.Array) -> tuple[jax.Array, ...]:
    outputs, pull_back = jax.vjp(lambda x, c: product(x, c, selection), x, c)
    return outputs, *pull_back(jnp.asarray(cotangent))

  outputs, of_inputs, of_coefficients = both(inputs, coefficients)
  kernel = scipy_kernel(coefficients, selection)
  gradient = inputs.astype(np.float64).T @ cotangent
  return max(
    relative_error(outputs, inputs @ kernel),
    relative_error(of_inputs, cotangent @ kernel.T),
    relative_error(of_coefficients, scipy_coefficients(gradient, selection)),
  )


@both_ways
def test_derivatives_equal_numerical_ones(product: Product) -> None:
  selection = SELECTIONS[11]

  def curved(x: jax.Array, c: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(product(x, c, selection)))

  inputs = draw((TOKENS, selection.shape[0]))
  arguments = tuple(map(jnp.asarray, (inputs, draw(selection.layout, seed=1))))
  check_grads(jax.jit(curved), arguments, order=1, rtol=2e-2)


@both_ways
def test_narrow_numbers_are_transformed_in_float32(product: Product) -> None:
  selection = Selection('strided', (64, 48), 64 * 24)
  inputs = jnp.asarray(draw((TOKENS, 64)), jnp.bfloat16)
  coefficients = jnp.asarray(draw(selection.layout, seed=1), jnp.bfloat16)
  outputs = product(inputs, coefficients, selection)
  assert outputs.dtype == jnp.bfloat16
  wide = np.asarray(coefficients, np.float64)
  expected = np.asarray(inputs, np.float64) @ scipy_kernel(wide, selection)
  # Three roundings or four: of inputs transformed or folded, of quarters, of
  # products and of outputs.
  assert relative_error(outputs, expected) < 4 * 2**-9


def test_no_array_of_the_kernel_s_size_is_made() -> None:
  selection = Selection('strided', (64, 48), 64 * 12)
  inputs, coefficients = draw((2, 64)), draw(selection.layout)
  jaxpr = jax.make_jaxpr(
    jax.grad(lambda c, x: factored_product(x, c, selection).sum(), (0, 1))
  )(coefficients, inputs)
  sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
  assert max(sizes) <= selection.count


@pytest.mark.parametrize('kind', ['strided', 'lowpass'])
def test_folding_multiplies_quarters_alone(kind: str) -> None:
  selection = Selection.of(kind, (64, 48), 0.5)
  inputs, coefficients = draw((2, 64)), draw(selection.layout)
  jaxpr = jax.make_jaxpr(
    jax.grad(lambda c, x: folded_product(x, c, selection).sum(), (0, 1))
  )(coefficients, inputs)
  shapes = [v.aval.shape for e in jaxpr.eqns for v in e.outvars]
  assert (32, 24) in shapes
  assert (64, 48) not in shapes or kind == 'lowpass'  # laid out, not rebuilt


def test_for_a_tpu_quarters_of_narrow_layers_are_of_rounded_factors() -> None:
  selection = Selection.of('strided', (64, 48), 0.5)
  coefficients = draw(selection.layout)

  def factors(dtype: jnp.dtype) -> set[str]:
    """The dtypes of what is multiplied to rebuild, and by the tokens."""
    inputs = jnp.zeros((2, 64), dtype)
    with planned_for('tpu'):
      jaxpr = jax.make_jaxpr(
        lambda x, c: folded_product(x, c, selection)  # a trace of its own
      )(inputs, coefficients)
    return {
      str(v.aval.dtype)
      for e in jaxpr.eqns
      if e.primitive.name == 'dot_general'
      for v in e.invars
    }

  assert factors(jnp.bfloat16) == {'bfloat16'}
  assert factors(jnp.float32) == {'float32'}
  assert factors(jnp.float16) == {'float16', 'float32'}
