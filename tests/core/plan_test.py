"""The plan: its counts are those of the programs, its choice the cheapest."""

import math
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import pytest

from spectral_jax.core.plan import (
  RATES,
  Plan,
  Work,
  plan,
  plan_quarters,
  work,
  work_on_quarters,
)
from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import PRODUCTS, kernel_from_coefficients
from spectral_jax.core.selection import Selection
from spectral_jax.training.program import product_flops

TOKENS = 3
SHAPES = [
  Selection.of('strided', (8, 24), 0.5, seed=1),
  Selection.of('strided', (24, 8), 0.25),
  Selection.of('strided', (9, 6), 1 / 3),  # an odd stride folds nothing
  Selection.of('lowpass', (16, 8), 0.5),
  Selection.of('block', (8, 16), 0.1),
  Selection.of('random', (7, 10), 0.5),  # odd sizes
  Selection.of('strided', (4, 2048), 0.5),  # its quarters are transformed
]


def _jaxpr(method: str, selection: Selection, basis: str = 'dct') -> Any:
  """A layer, forward and backward."""

  def layer(x: jax.Array, c: jax.Array) -> jax.Array:
    if method in PRODUCTS:
      return PRODUCTS[method](x, c, selection)
    return x @ kernel_from_coefficients(c, selection, method, basis)

  inputs = jnp.zeros((TOKENS, selection.shape[0]))
  outputs = jnp.zeros((TOKENS, selection.shape[1]))

  def both(x: jax.Array, c: jax.Array) -> Any:
    return jax.vjp(layer, x, c)[1](outputs)

  return jax.make_jaxpr(both)(inputs, jnp.zeros(selection.layout)).jaxpr


def _transformed(jaxpr: Any) -> float:
  """Real numbers that FFTs take or give, times the levels of each."""
  total = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'fft':
      lengths = equation.params['fft_lengths']
      sizes = [v.aval.size for v in (*equation.invars, *equation.outvars)]
      real = [
        size
        for v, size in zip(
          (*equation.invars, *equation.outvars), sizes, strict=True
        )
        if not jnp.issubdtype(v.aval.dtype, jnp.complexfloating)
      ]
      total += real[0] * math.log2(math.prod(lengths))
    for value in equation.params.values():
      if isinstance(value, jax.extend.core.ClosedJaxpr):
        total += _transformed(value.jaxpr)
  return total


def _multiplied(done: Work) -> float:
  return done.multiplications + done.rounded + done.products


@pytest.mark.parametrize(
  'method', ['gemm', 'gemm_bf16', 'fft', 'gemm_fft', 'factored', 'folded']
)
@pytest.mark.parametrize(
  'selection', SHAPES, ids=lambda s: f'{s.kind}{s.shape}'
)
def test_the_counts_are_those_of_the_program(
  method: str, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(jax, 'device_count', lambda backend: 1)
  if method == 'folded' and selection.stride % 2 and selection.stride > 1:
    assert method not in work(selection, TOKENS)
    return
  jaxpr = _jaxpr(method, selection)
  counted = [work(selection, TOKENS)[method]]
  if method == 'folded':
    way = plan_quarters(selection, jnp.float32).method
    counted.append(work_on_quarters(selection)[way])
  assert product_flops(jaxpr, 1) == 2 * sum(map(_multiplied, counted))
  transformed = sum(done.transformed for done in counted)
  assert _transformed(jaxpr) == pytest.approx(transformed)


def test_another_basis_has_no_fft_and_no_symmetry() -> None:
  selection = SHAPES[3]
  counted = work(selection, TOKENS, 'orthonormal')
  assert counted.keys() == {'gemm', 'gemm_bf16'}
  for method, done in counted.items():
    jaxpr = _jaxpr(method, selection, 'orthonormal')
    assert product_flops(jaxpr, 1) == 2 * _multiplied(done)


def test_it_takes_the_cheapest_and_says_why() -> None:
  wide = Selection.of('strided', (1024, 4096), 0.25)
  chosen = plan(wide, 2048, platform='cpu')
  assert chosen.method == min(chosen.seconds, key=chosen.seconds.__getitem__)
  assert str(Plan('a', {'b': 2e-3, 'a': 1e-3})) == 'a 1 ms, b 2 ms'


@pytest.mark.parametrize(
  ('kind', 'keep', 'shape', 'tokens', 'platform', 'method'),
  [
    # As measured on two cores, docs/performance.md.
    ('strided', 0.5, (128, 512), 2048, 'cpu', 'folded'),
    ('strided', 0.25, (128, 128), 2048, 'cpu', 'folded'),
    ('strided', 0.5, (128, 512), 0, 'cpu', 'gemm_fft'),
    ('strided', 0.5, (1024, 4096), 0, 'cpu', 'gemm_fft'),
    ('strided', 0.5, (4096, 4096), 0, 'cpu', 'fft'),
    ('random', 0.5, (128, 512), 2048, 'cpu', 'fft'),
    ('strided', 0.5, (1024, 4096), 2048, 'cpu', 'folded'),
    ('strided', 0.25, (1024, 4096), 2048, 'cpu', 'folded'),
    ('strided', 0.5, (1024, 4096), 8192, 'cpu', 'folded'),
    ('strided', 0.5, (1024, 4096), 16, 'cpu', 'factored'),
    ('block', 1 / 16, (1024, 4096), 2048, 'cpu', 'factored'),
    ('random', 0.5, (1024, 4096), 2048, 'cpu', 'fft'),
    # There products are cheap and transforms dear.
    ('random', 0.5, (1024, 4096), 2048, 'tpu', 'gemm'),
  ],
)
def test_it_chooses(
  kind: str,
  keep: float,
  shape: tuple[int, int],
  tokens: int,
  platform: str,
  method: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(jax, 'device_count', lambda backend: 1)
  selection = Selection.of(kind, shape, keep)
  assert plan(selection, tokens, platform=platform).method == method
  with planned_for(platform):
    assert plan(selection, tokens).method == method


def test_several_cpu_devices_have_no_ffts(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  selection = Selection.of('strided', (128, 512), 0.5)

  def ways(platform: str) -> set[str]:
    with planned_for(platform):
      quarters = plan_quarters(selection, jnp.float32).seconds
      return {*plan(selection).seconds, *quarters}

  monkeypatch.setattr(jax, 'device_count', lambda backend: 2)
  assert ways('cpu') == {'gemm'}
  assert ways('gpu') == {'gemm', 'fft', 'gemm_fft'}
  monkeypatch.setattr(jax, 'device_count', lambda backend: 1)
  assert ways('cpu') == {'gemm', 'fft', 'gemm_fft'}


def test_narrow_products_cost_their_own_rate() -> None:
  selection = Selection.of('strided', (1024, 4096), 0.5)
  costs = [
    plan(selection, 2048, dtype=dtype, platform='gpu').seconds['gemm']
    for dtype in (jnp.float32, jnp.bfloat16)
  ]
  products = 3 * 2048 * selection.size
  rates = RATES['gpu']
  assert costs[0] - costs[1] == pytest.approx(
    products / rates.float32 - products / rates.bfloat16
  )


@pytest.mark.parametrize('basis', ['dct', 'orthonormal'])
@pytest.mark.parametrize('tokens', [0, 8192])
def test_factors_are_rounded_for_bfloat16_where_that_is_faster(
  tokens: int, basis: str
) -> None:
  half = Selection.of('strided', (1024, 4096), 0.5)

  def methods(dtype: Any, platform: str) -> tuple[str, bool]:
    chosen = plan(half, tokens, basis=basis, dtype=dtype, platform=platform)
    return chosen.method, 'gemm_bf16' in chosen.seconds

  for platform in ('tpu', 'gpu', 'cuda'):
    assert methods(jnp.bfloat16, platform) == ('gemm_bf16', True)
    assert not methods(jnp.float32, platform)[1]
    assert not methods(jnp.float16, platform)[1]  # it has more digits
  assert not methods(jnp.bfloat16, 'cpu')[1]


def test_quarters_are_rounded_where_kernels_would_be() -> None:
  large = Selection.of('strided', (8192, 8192), 0.5)
  for platform in ('tpu', 'gpu'):
    way = plan_quarters(large, jnp.bfloat16, platform)
    chosen = plan(large, 16384, dtype=jnp.bfloat16, platform=platform)
    assert (way.method, chosen.method) == ('gemm_bf16', 'folded')
    product = work(large, 16384)['folded']
    assert chosen.seconds['folded'] == pytest.approx(
      product.seconds(RATES[platform], jnp.bfloat16) + way.seconds['gemm_bf16']
    )
    assert (
      'gemm_bf16' not in plan_quarters(large, jnp.float32, platform).seconds
    )
  assert 'gemm_bf16' not in plan_quarters(large, jnp.bfloat16, 'cpu').seconds


def test_a_part_of_a_kernel_is_by_products() -> None:
  third = Selection.of('strided', (6144, 6144), 1 / 3)
  for dtype, method in ((jnp.float32, 'gemm'), (jnp.bfloat16, 'gemm_bf16')):
    whole, part = (
      plan(third, dtype=dtype, platform='gpu', whole=whole)
      for whole in (True, False)
    )
    assert (whole.method, part.method) == ('fft', method)
    assert part.seconds.keys() <= {'gemm', 'gemm_bf16'}
