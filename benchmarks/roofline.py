"""How near a program comes to what its device can do.

Its least time is that of its matrix products alone, or that of reading its
arguments and writing its results once, whichever is longer: at the rates at
which this device multiplies two large matrices and copies a large array, see
Williams, Waterman and Patterson, "Roofline" (2009). Rates are measured in the
same run, so that no data sheet is asked, and a machine of any kind has them.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.layer_calls import Call

_CALLS = 7  # of which the fastest counts
# Of a CPU, and of what is some hundred times as fast: rows of a square matrix,
# and bytes that no cache holds.
_ROWS = {True: 2048, False: 8192}
_BYTES = {True: 2**27, False: 2**30}


@dataclasses.dataclass(frozen=True)
class Roofline:
  """What this device does in a second, at the most.

  Attributes:
    dtype: of the products.
    flops: multiplications and additions of a large product, each counted.
    bytes: read and written by a copy.
  """

  dtype: str
  flops: float
  bytes: float

  @classmethod
  def measure(cls, dtype: str) -> 'Roofline':
    """Multiplies and copies for a second or two."""
    on_cpu = jax.default_backend() == 'cpu'
    rows, size = _ROWS[on_cpu], _BYTES[on_cpu]
    matrix = jnp.full((rows, rows), 1 / rows, dtype)
    numbers = jnp.zeros(size // 4, jnp.float32)
    return cls(
      dtype,
      2 * rows**3 / _fastest(lambda x: jnp.dot(x, x), matrix),
      2 * size / _fastest(lambda x: x + 1, numbers),
    )

  def __str__(self) -> str:
    """Both rates."""
    return (
      f'{self.flops / 1e9:,.0f} GFLOP/s in products of {self.dtype}, '
      f'{self.bytes / 1e9:,.1f} GB/s'
    )

  def share(self, call: Call, seconds: float) -> str:
    """Least time over time, and by what it is bound: `0.71 products`."""
    bounds = {
      'products': call.flops / self.flops,
      'memory': call.bytes / self.bytes,
    }
    bound = max(bounds, key=bounds.__getitem__)
    return f'{bounds[bound] / seconds:.2f} {bound}'


def _fastest(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
  """Seconds of the fastest call; each takes what the one before it gave."""
  in_place = jax.jit(function, donate_argnums=0)
  x = jax.block_until_ready(in_place(x))  # compiles
  seconds = []
  for _ in range(_CALLS):
    started = time.perf_counter()
    x = jax.block_until_ready(in_place(x))
    seconds.append(time.perf_counter() - started)
  return min(seconds)
