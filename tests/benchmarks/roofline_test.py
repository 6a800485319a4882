"""What a layer multiplies and moves, and the least time that this takes."""

import itertools
import types
from typing import Any

import jax.numpy as jnp
import pytest

from benchmarks import roofline
from benchmarks.layer_calls import Layers, rebuilding
from benchmarks.roofline import Roofline
from spectral_jax.core.selection import Selection

N, M, TOKENS = 8, 12, 5


@pytest.mark.parametrize(
  ('forward', 'products', 'numbers'),
  [
    # Kernel and inputs to outputs; with the backward pass outputs' gradients
    # as well, to those of both.
    (True, 1, N * M + TOKENS * N + TOKENS * M),
    (False, 3, 2 * (N * M + TOKENS * N + TOKENS * M)),
  ],
)
def test_what_a_dense_layer_multiplies_and_moves(
  forward: bool, products: int, numbers: int
) -> None:
  call = Layers((N, M), TOKENS, 'float32', forward).dense()
  assert call.flops == 2 * products * TOKENS * N * M
  assert call.bytes == 4 * numbers


def test_a_rebuilding_reads_what_is_stored() -> None:
  half = Selection.of('strided', (N, M), 0.5)
  one, three = (
    rebuilding(half, 'gemm', forward=True, kernels=kernels)
    for kernels in (1, 3)
  )
  assert one.bytes == 4 * (half.count + N * M)
  assert (three.bytes, three.flops) == (3 * one.bytes, 3 * one.flops)


def test_the_longer_of_products_and_memory_is_the_bound() -> None:
  roof = Roofline(flops=1e9, bytes=1e6)

  def share(flops: float, moved: float) -> str:
    call: Any = types.SimpleNamespace(flops=flops, bytes=moved)
    return roof.share(call, seconds=2.0)

  assert share(flops=1e9, moved=1e5) == '0.50 products'
  assert share(flops=1e8, moved=1e6) == '0.50 memory'


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
  clock = itertools.accumulate(itertools.cycle([0.0, 3.0, 0.0, 1.0, 0.0, 2.0]))
  monkeypatch.setattr(roofline.time, 'perf_counter', lambda: next(clock))
  assert roofline._fastest(jnp.negative, jnp.ones(3)) == 1.0


def test_kernels_are_each_of_their_own_numbers() -> None:
  half = Selection.of('strided', (N, M), 0.5)
  kernels = rebuilding(half, 'gemm', forward=True, kernels=2).here()()
  assert not jnp.allclose(*kernels)
