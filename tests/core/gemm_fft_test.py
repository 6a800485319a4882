"""Half of a kernel by products and FFTs: the other half, and quarters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core import folded
from spectral_jax.core.blocks import by_parity
from spectral_jax.core.gemm import sums_of_blocks
from spectral_jax.core.gemm_fft import quarters_by_gemm_fft, turns
from spectral_jax.core.plan import Plan, plan_quarters, work_on_quarters
from spectral_jax.core.selection import Selection
from tests.core.factored_test import error_of_layer
from tests.core.reconstruct_test import draw, relative_error, scipy_kernel

# Of each stride wide and tall kernels, and both parities of the offset.
TURNING = [
  Selection('strided', shape, 96 // b, seed)
  for b in (2, 4)
  for shape in ((8, 12), (12, 8))
  for seed in (0, 1, 2)
]


def test_both_parities_of_the_offset_are_tested() -> None:
  for b in (2, 4):
    for shape in ((8, 12), (12, 8)):
      parities = {
        s.offset % 2 for s in TURNING if (s.stride, s.shape) == (b, shape)
      }
      assert parities == {0, 1}


@pytest.mark.parametrize(
  'selection',
  [
    *TURNING[::3],
    Selection('strided', (6, 9), 18, seed=1),
    Selection('random', (6, 8), 24),
    Selection('lowpass', (6, 8), 24),
  ],
  ids=lambda s: f'{s.kind}{s.shape}',
)
def test_only_kernels_of_an_even_stride_turn(selection: Selection) -> None:
  kernel = scipy_kernel(draw(selection.layout), selection)
  turned = kernel[::-1, ::-1]
  itself = min(np.abs(turned - kernel).max(), np.abs(turned + kernel).max())
  assert (itself < 1e-6) == turns(selection)
  assert ('gemm_fft' in work_on_quarters(selection)) == turns(selection)


@pytest.mark.parametrize('selection', TURNING, ids=str)
def test_quarters_are_those_by_products(selection: Selection) -> None:
  coefficients = jnp.asarray(draw(selection.layout))
  pieces = by_parity(coefficients, selection, (True, True))
  expected = sums_of_blocks(
    pieces, selection.shape, 'dct', None, False, (True, True)
  )
  quarters = quarters_by_gemm_fft(coefficients, selection)
  assert quarters.keys() == expected.keys()
  for parity, quarter in quarters.items():
    assert relative_error(quarter, np.asarray(expected[parity])) < 1e-5


@pytest.mark.parametrize('shape', [(4, 2048), (2048, 4)])
def test_long_lines_of_folded_layers_are_transformed(
  shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(jax, 'device_count', lambda backend: 1)
  selection = Selection.of('strided', shape, 0.5, seed=1)
  assert plan_quarters(selection, jnp.float32).method == 'gemm_fft'
  assert error_of_layer(folded.folded_product, selection) < 1e-5


def test_folded_layers_of_rounded_quarters(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  rounded = Plan('gemm_bf16', {})
  monkeypatch.setattr(folded, 'plan_quarters', lambda *_: rounded)
  selection = Selection.of('strided', (24, 32), 0.5)
  assert 1e-4 < error_of_layer(folded.folded_product, selection) < 2**-7
