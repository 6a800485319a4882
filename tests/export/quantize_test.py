"""Integers and scales stand for the numbers that they were made of."""

import numpy as np
import pytest

from spectral_jax.export.quantize import (
  GROUP,
  Quantized,
  quantize,
  stored_shapes,
)


def drawn(count: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=count).astype(np.float32)


@pytest.mark.parametrize('count', [1, GROUP, 3 * GROUP + 5])
@pytest.mark.parametrize(('bits', 'half_step'), [(8, 0.5 / 127), (4, 0.5 / 7)])
def test_each_is_within_half_a_step(
  count: int, bits: int, half_step: float
) -> None:
  numbers = drawn(count)
  stored = quantize(numbers, bits)
  assert (stored.integers.shape, stored.scales.shape) == stored_shapes(
    count, bits
  )
  back = stored.numbers(count)
  assert back.dtype == np.float32
  for start in range(0, count, GROUP):
    part = slice(start, start + GROUP)
    step = half_step * np.abs(numbers[part]).max()
    errors = np.abs(back - numbers)[part]
    if bits == 8:
      assert errors.max() <= 1.01 * step
    else:  # the largest may be cut short
      assert np.square(errors).mean() <= step**2 / 3 * 1.1


def test_four_bits_are_two_to_a_byte() -> None:
  stored = quantize(np.array([7, -7, 3], np.float32), 4)
  assert stored.integers.tolist() == [15 | 1 << 4, 11]
  assert stored.numbers(3).tolist() == [7, -7, 3]


@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize('scale', [0.0, 1e-30, 1e30])
def test_any_size_of_numbers(bits: int, scale: float) -> None:
  numbers = scale * drawn(100)
  back = quantize(numbers, bits).numbers(100)
  error = np.linalg.norm((back - numbers).astype(np.float64))
  assert error <= 0.1 * np.linalg.norm(numbers.astype(np.float64))


def test_a_scale_serves_its_own_group() -> None:
  integers = np.ones(GROUP + 1, np.int8)
  scales = np.array([2.0, 4.0], np.float32)
  numbers = Quantized(integers, scales).numbers(GROUP + 1)
  assert numbers.tolist() == [2.0] * GROUP + [4.0]
