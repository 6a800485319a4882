"""How near a program comes to what its device can do.

Its least time is that of its matrix products alone, or that of reading its
arguments and writing its results once, whichever is longer: at the rates at
which this device multiplies two large matrices and negates a large array, see
Williams, Waterman and Patterson, "Roofline" (2009). Rates are measured in the
same run, so that no data sheet is asked, and a machine of any kind has them.
Arrays that lie in a CPU's caches can be faster than that.
"""

import dataclasses
import functools
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
    flops: multiplications and additions of a large product, each counted.
    bytes: read and written where a large array is negated in place.
  """

  flops: float
  bytes: float

  @classmethod
  @functools.cache
  def measure(cls, dtype: str, precision: str = 'default') -> 'Roofline':
    """Multiplies and negates for a second or two.

    Args:
      dtype: of the products.
      precision: see `jax.lax.Precision`.
    """
    on_cpu = jax.default_backend() == 'cpu'
    rows, size = _ROWS[on_cpu], _BYTES[on_cpu]
    multiply = jax.jit(lambda x: jnp.dot(x, x, precision=precision))
    matrix = jnp.full((rows, rows), 1 / rows, dtype)  # its square is itself
    numbers = jnp.zeros(size // 4, jnp.float32)
    return cls(
      2 * rows**3 / _fastest(multiply, matrix),
      2 * size / _fastest(jax.jit(jnp.negative, donate_argnums=0), numbers),
    )

  def __str__(self) -> str:
    """Both rates."""
    return f'{self.flops / 1e9:,.0f} GFLOP/s or {self.bytes / 1e9:,.1f} GB/s'

  def share(self, call: Call, seconds: float) -> str:
    """Least time over time, and by what it is bound: `0.71 products`."""
    bounds = {
      'products': call.flops / self.flops,
      'memory': call.bytes / self.bytes,
    }
    bound = max(bounds, key=bounds.__getitem__)
    return f'{bounds[bound] / seconds:.2f} {bound}'


def _fastest(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
  """Seconds of the fastest call; each takes what the one before it gave."""
  seconds = []
  for _ in range(_CALLS):
    started = time.perf_counter()
    x = jax.block_until_ready(call(x))
    seconds.append(time.perf_counter() - started)
  return min(seconds)
