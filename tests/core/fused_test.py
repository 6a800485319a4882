"""The fused kernel, interpreted, against the kernel by SciPy in float64."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.test_util import check_grads

from spectral_jax.core import panels, tiles
from spectral_jax.core.folded import folded_product
from spectral_jax.core.fused import fused_product
from spectral_jax.core.platform import planned_for
from spectral_jax.core.selection import Selection
from spectral_jax.core.tiles import Tiles, choose_tiles
from tests.core.reconstruct_test import (
  SELECTIONS,
  draw,
  relative_error,
  scipy_coefficients,
  scipy_kernel,
)

TOKENS = 5
HALF = SELECTIONS[11]
LAYOUT = (1, 2048, 2048)


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  interpreted = functools.partial(pl.pallas_call, interpret=True)
  monkeypatch.setattr(panels.pl, 'pallas_call', interpreted)
  with planned_for('tpu'):
    yield


def errors(
  selection: Selection, dtype: str = 'float32', tokens: int = TOKENS
) -> list[float]:
  """Of the outputs, the inputs' gradient and that of the coefficients."""
  n, m = selection.shape
  x, c, cotangent = (
    jnp.asarray(draw(shape, seed), dtype)
    for seed, shape in enumerate(((tokens, n), selection.layout, (tokens, m)))
  )

  @jax.jit
  def both(x: jax.Array, c: jax.Array, cotangent: jax.Array) -> list[jax.Array]:
    outputs, pull_back = jax.vjp(
      lambda x, c: fused_product(x, c, selection), x, c
    )
    return [outputs, *pull_back(cotangent)]

  found = both(x, c, cotangent)
  assert {array.dtype for array in found} == {jnp.dtype(dtype)}
  x, c, cotangent = (np.asarray(a, np.float64) for a in (x, c, cotangent))
  kernel = scipy_kernel(c, selection)
  expected = (
    x @ kernel,
    cotangent @ kernel.T,
    scipy_coefficients(x.T @ cotangent, selection),
  )
  return [relative_error(*pair) for pair in zip(found, expected, strict=True)]


@pytest.mark.usefixtures('on_tpu')
@pytest.mark.parametrize(
  'selection',
  [
    *(SELECTIONS[i] for i in (1, 4, 9, 10, 12)),
    Selection('random', (7, 20), 96, seed=4),
    Selection('band', (6, 9), 20, seed=1),
  ],
  ids=lambda s: f'{s.kind}-{s.shape}',
)
def test_it_equals_the_kernel_forward_and_backward(
  selection: Selection,
) -> None:
  assert max(errors(selection)) < 1e-5


@pytest.mark.usefixtures('on_tpu')
def test_several_tiles_of_tokens_chunks_of_rows_and_panels(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(tiles, '_LARGEST', (Tiles(16, 128, 128),))
  for dtype, error in (('float32', 1e-5), ('bfloat16', 2**-6)):
    # Two blocks a piece, of two chunks; two panels, three backward to inputs.
    selection = Selection.of('strided', (600, 500), 1 / 4, seed=1)
    assert max(errors(selection, dtype, tokens=40)) < error
  # Three blocks that fold nothing.
  selection = Selection.of('strided', (390, 300), 1 / 3, seed=1)
  assert max(errors(selection, tokens=20)) < 1e-5


@pytest.mark.usefixtures('on_tpu')
def test_bfloat16_costs_its_roundings() -> None:
  # Of sums and differences, bases, both products, and of outputs twice.
  assert 2**-12 < max(errors(HALF, 'bfloat16')) < 6 * 2**-9


@pytest.mark.usefixtures('on_tpu')
def test_derivatives_equal_numerical_ones() -> None:
  def curved(x: jax.Array, c: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(fused_product(x, c, HALF)))

  inputs = draw((TOKENS, HALF.shape[0]))
  arguments = tuple(map(jnp.asarray, (inputs, draw(HALF.layout, seed=1))))
  check_grads(jax.jit(curved), arguments, order=1, modes=['rev'], rtol=2e-2)


def _loss(x: jax.Array, c: jax.Array) -> jax.Array:
  return jnp.sum(jnp.sin(fused_product(x, c, HALF)))


@pytest.mark.usefixtures('on_tpu')
@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0)])
def test_a_batch_by_vmap(axes: tuple[int | None, int | None]) -> None:
  shapes = ((TOKENS, HALF.shape[0]), HALF.layout)
  stacked = [jnp.asarray(draw((2, *shape))) for shape in shapes]
  arguments = [
    array[0] if axis is None else array
    for array, axis in zip(stacked, axes, strict=True)
  ]
  gradient = jax.jit(jax.grad(_loss, (0, 1)))
  together = jax.vmap(gradient, axes)(*arguments)
  for index in range(2):
    alone = gradient(
      *(
        array[0 if axis is None else index]
        for array, axis in zip(stacked, axes, strict=True)
      )
    )
    for one, both in zip(alone, together, strict=True):
      np.testing.assert_allclose(one, both[index], atol=1e-5)


@pytest.mark.usefixtures('on_tpu')
def test_under_remat() -> None:
  arguments = draw((TOKENS, HALF.shape[0])), draw(HALF.layout, seed=1)
  kept = jax.jit(jax.grad(_loss, (0, 1)))(*arguments)
  again = jax.jit(jax.grad(jax.checkpoint(_loss), (0, 1)))(*arguments)
  for one, other in zip(kept, again, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)


def _sizes(jaxpr: Any) -> Iterator[int]:
  """Of all arrays in the device's memory: not those inside Pallas kernels."""
  for equation in jaxpr.eqns:
    yield from (v.aval.size for v in equation.outvars)
    if equation.primitive.name != 'pallas_call':
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        yield from _sizes(inner)


@pytest.mark.usefixtures('on_tpu')
def test_neither_the_kernel_nor_its_gradient_is_an_array() -> None:
  # Quarters would have 256² numbers; all else, filled up to 128, has less.
  selection = Selection('block', (512, 512), 64)
  jaxpr = jax.make_jaxpr(
    jax.grad(lambda x, c: fused_product(x, c, selection).sum(), (0, 1))
  )(draw((TOKENS, 512)), draw(selection.layout))
  sizes = list(_sizes(jaxpr.jaxpr))
  assert max(sizes) < 256**2


@pytest.mark.usefixtures('on_tpu')
def test_inputs_and_coefficients_alone_are_kept() -> None:
  inputs, coefficients = draw((TOKENS, 8)), draw(HALF.layout)
  _, pull_back = jax.vjp(
    lambda x, c: fused_product(x, c, HALF),
    jnp.asarray(inputs),
    jnp.asarray(coefficients),
  )
  kept = [leaf.size for leaf in jax.tree.leaves(pull_back) if leaf.ndim]
  assert sum(kept) == inputs.size + coefficients.size


def test_where_there_is_no_tpu_it_is_the_folded_way() -> None:
  inputs, coefficients = draw((TOKENS, HALF.shape[0])), draw(HALF.layout)
  fused, folded = (
    str(jax.make_jaxpr(lambda x, c, f=f: f(x, c, HALF))(inputs, coefficients))
    for f in (fused_product, folded_product)
  )
  assert fused == folded


@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_tiles_are_few_equal_and_what_tpus_take(
  dtype: str, backward: bool
) -> None:
  choose: Callable[..., Tiles] = functools.partial(
    choose_tiles, dtype=jnp.dtype(dtype), backward=backward
  )
  for tokens, n, m, r in ((8192, 2048, 2048, 2048), (1, 7, 5, 3)):
    t, rows, columns = choose(tokens, (n, m), (1, r, r))
    assert t % 16 == rows % 128 == columns % 128 == 0
  assert choose(8200, (2048, 640), LAYOUT).tokens == 496  # of 17, none empty
  assert choose(16, (2048, 1152), LAYOUT).columns == 640
  # Longer panels are narrower.
  long, short = (choose(512, (n, 2048), (1, 512, 512)) for n in (8192, 1024))
  assert long.columns < short.columns


def test_what_does_not_fit_says_so() -> None:
  float32 = jnp.dtype('float32')
  with pytest.raises(
    ValueError, match=r"^method: 'fused' holds 1 blocks .* 'gemm', or store"
  ):
    choose_tiles(16, (32768, 128), LAYOUT, float32, backward=False)
  layout = (1, 4096, 4096)
  choose_tiles(16, (2048, 2048), layout, float32, backward=False)
  with pytest.raises(
    ValueError, match=r'holds gradients of 1 blocks of 4096×4096 coefficients'
  ):
    choose_tiles(16, (2048, 2048), layout, float32, backward=True)


@pytest.mark.parametrize(
  ('precision', 'default', 'expected'),
  [
    (None, None, 'DEFAULT'),
    ('default', 'highest', 'DEFAULT'),
    ('bfloat16', None, 'DEFAULT'),
    (None, 'bfloat16', 'DEFAULT'),
    (None, 'high', 'HIGHEST'),
    (None, 'tensorfloat32', 'HIGHEST'),
    (None, 'BF16_BF16_F32_X3', 'HIGHEST'),
    ('bfloat16_3x', None, 'HIGHEST'),
    (jax.lax.Precision.HIGH, None, 'HIGHEST'),
    ((jax.lax.Precision.HIGH, jax.lax.Precision.DEFAULT), None, 'HIGHEST'),
    (jax.lax.Precision.DEFAULT, 'highest', 'DEFAULT'),
  ],
)
def test_a_product_takes_one_pass_or_six(
  precision: Any, default: str | None, expected: str
) -> None:
  factors = jnp.ones((4, 4))
  with jax.default_matmul_precision(default):
    for dtype, wanted in (('float32', expected), ('bfloat16', 'DEFAULT')):
      narrow = factors.astype(dtype)
      (product,) = jax.make_jaxpr(
        lambda x, y: panels._dot(x, y, (1, 0), precision)
      )(narrow, narrow).eqns
      assert {p.name for p in product.params['precision']} == {wanted}


@pytest.mark.usefixtures('on_tpu')
def test_coefficients_are_rounded_to_the_inputs_dtype() -> None:
  inputs = jnp.asarray(draw((TOKENS, HALF.shape[0])), jnp.bfloat16)
  stored = jnp.asarray(draw(HALF.layout, seed=1))
  outputs = fused_product(inputs, stored, HALF)
  assert outputs.dtype == jnp.bfloat16
  rounded = fused_product(inputs, stored.astype(jnp.bfloat16), HALF)
  np.testing.assert_array_equal(outputs, rounded)


@pytest.mark.usefixtures('on_tpu')
def test_other_numbers_are_refused() -> None:
  inputs = jnp.ones((TOKENS, 8), jnp.float16)
  with pytest.raises(ValueError, match=r'float32 or bfloat16, got float16'):
    fused_product(inputs, jnp.ones(HALF.layout, jnp.float16), HALF)
