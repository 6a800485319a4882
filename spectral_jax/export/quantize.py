"""Numbers as integers of eight or four bits, with a scale for each few of them.

Neighbours in the order in which a selection stores its coefficients share a
scale. Bands of equal radial frequency, and rows or columns of the plane, did
no better (docs/export.md).

Shapes: L numbers in G groups of S, the last one filled up with zeros.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

GROUP = 32  # S
# It has the range of float32. Its rounding costs nothing, for the integers are
# those of the scale as it is stored.
SCALE = np.dtype(jnp.bfloat16)
_LARGEST = {8: 127, 4: 7}
# Four bits gain more by a finer scale than they lose by cutting the largest
# number short.
_PARTS = {8: (1.0,), 4: tuple(np.linspace(0.5, 1, 26))}


@dataclasses.dataclass(frozen=True)
class Quantized:
  """Integers and their scales.

  Attributes:
    integers: int8 [L]; or uint8 [⌈L/2⌉], two to a byte, the first in the lower
      four bits, 1 to 15 for −7 to 7.
    scales: bfloat16 [G]; a number is its integer times its group's scale.
  """

  integers: NDArray[np.int8 | np.uint8]
  scales: NDArray[np.generic]

  def numbers(self, count: int) -> NDArray[np.float32]:
    """The L numbers that they stand for."""
    integers_L = self.integers
    if integers_L.dtype == np.uint8:
      halves_Lx2 = np.stack([integers_L & 15, integers_L >> 4], axis=1)
      integers_L = halves_Lx2.ravel()[:count].astype(np.int8) - np.int8(8)
    scales_L = np.repeat(self.scales.astype(np.float32), GROUP)[:count]
    return integers_L * scales_L


def stored_shapes(count: int, bits: int) -> tuple[tuple[int], tuple[int]]:
  """The shapes of the integers and the scales of L numbers."""
  integers = count if bits == 8 else -(-count // 2)
  return (integers,), (-(-count // GROUP),)


def quantize(numbers_L: NDArray[np.float32], bits: int) -> Quantized:
  """Rounds numbers to multiples of their group's scale.

  Args:
    numbers_L: finite.
    bits: 8 or 4. Of eight bits the scale is that of a group's largest number,
      of four bits that of the least squared error.
  """
  count = numbers_L.size
  largest = _LARGEST[bits]
  groups_GxS = np.pad(numbers_L, (0, -count % GROUP)).reshape(-1, GROUP)
  full_G = np.abs(groups_GxS).max(axis=1) / largest
  scales_G = np.zeros(full_G.shape, SCALE)
  integers_GxS = np.zeros(groups_GxS.shape, np.int8)
  least_G = np.full(full_G.shape, np.inf)
  for part in _PARTS[bits]:  # one after another: a kernel may be large
    tried_G = (full_G * part).astype(SCALE)
    divisors_Gx1 = tried_G.astype(np.float32)[:, None]
    divisors_Gx1[divisors_Gx1 == 0] = 1
    exact_GxS = groups_GxS / divisors_Gx1
    tried_GxS = np.rint(exact_GxS).clip(-largest, largest)
    errors_G = np.square(part * (tried_GxS - exact_GxS)).sum(axis=1)
    better_G = errors_G < least_G
    least_G[better_G] = errors_G[better_G]
    scales_G[better_G] = tried_G[better_G]
    integers_GxS[better_G] = tried_GxS[better_G]
  integers_L = integers_GxS.ravel()[:count]
  if bits == 4:
    halves = np.pad(integers_L + 8, (0, count % 2)).astype(np.uint8)
    return Quantized(halves[::2] | halves[1::2] << 4, scales_G)
  return Quantized(integers_L, scales_G)
