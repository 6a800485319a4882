"""Packed coefficients, against the kernel by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core.packed import pack, packed_product, packed_shapes
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import KINDS, Selection


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
  ('shape', 'keep'),
  # One panel; several, the last one not full; rows of several words.
  [((12, 20), 0.5), ((300, 40), 0.25), ((30, 600), 0.5), ((8, 8), 1.0)],
)
def test_the_product_is_that_with_the_kernel(
  kind: str, shape: tuple[int, int], keep: float
) -> None:
  selection = Selection.of(kind, shape, keep, seed=3)
  rng = np.random.default_rng(0)
  coefficients = jnp.asarray(rng.normal(size=selection.layout), jnp.float32)
  inputs = jnp.asarray(rng.normal(size=(5, shape[0])), jnp.float32)
  packed = pack(coefficients, selection)
  np.testing.assert_allclose(
    jax.jit(packed_product, static_argnums=2)(inputs, packed, shape[1]),
    inputs @ kernel_from_coefficients(coefficients, selection, 'idctn'),
    atol=2e-4,
  )
  assert packed.coefficients.shape == (selection.count,)
  assert packed_shapes(selection) == jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), packed
  )


def test_positions_cost_a_bit_each() -> None:
  selection = Selection.of('random', (512, 512), 0.25)
  packed = pack(jnp.ones(selection.layout), selection)
  index = packed.bits_RxW.nbytes + packed.before_R.nbytes
  assert index == 512 * 512 / 8 + 512 * 4


def test_the_product_is_rounded_to_the_inputs_dtype() -> None:
  selection = Selection.of('lowpass', (16, 16), 0.5)
  packed = pack(jnp.ones(selection.layout), selection)
  outputs = packed_product(jnp.ones((1, 16), jnp.bfloat16), packed, 16)
  assert outputs.dtype == jnp.bfloat16
