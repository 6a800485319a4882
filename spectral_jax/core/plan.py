"""Which way of computing a layer is the cheapest: what `auto` takes.

The cost of a way is what it multiplies, transforms and moves, each over the
rate at which a kind of device does so. Only the rates' ratios matter, and only
where two ways cost much the same. Those of `cpu` fit what
`python -m benchmarks.layer` measured on two cores; those of `gpu` (H100) and
`tpu` (v5e) are from data sheets, and no such device has been measured.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp

from spectral_jax.core.blocks import foldable, quarters
from spectral_jax.core.gemm import multiplications
from spectral_jax.core.gemm_fft import computed_lines, turns
from spectral_jax.core.platform import has_sound_ffts, planned_platform
from spectral_jax.core.selection import Selection


@dataclasses.dataclass(frozen=True)
class Rates:
  """What a kind of device does in a second.

  Attributes:
    float32: multiplications of matrix products, float32 at highest precision.
    bfloat16: the same of bfloat16 factors.
    rounded: the same of `gemm_bf16`, whose gradients' products are of float32
      factors in one pass, on a GPU at half the rate.
    transformed: numbers that go through one of the log₂ N levels of an FFT.
    moved: numbers that are laid out anew.
    mirrored: numbers that are added to their mirror images, or taken from them.
  """

  float32: float
  bfloat16: float
  rounded: float
  transformed: float
  moved: float
  mirrored: float


RATES = {
  'cpu': Rates(1.2e11, 1.2e11, 1.2e11, 3e9, 3e8, 2.5e9),
  'gpu': Rates(2e13, 3e14, 2e14, 8e11, 4e11, 2e11),
  'tpu': Rates(1.6e13, 9.8e13, 9.8e13, 5.6e9, 1e11, 5e10),
}


_BY_FFT = ('fft', 'gemm_fft')


@dataclasses.dataclass(frozen=True)
class Work:
  """What a way of computing does, forward and backward.

  Attributes:
    multiplications: of matrix products, in float32.
    rounded: of matrix products by `gemm_bf16`.
    products: those of the product with the inputs, in the layer's dtype.
    transformed: numbers times log₂ of the length of their transform.
    moved: numbers that are laid out anew.
    mirrored: numbers that are added to their mirror images, or taken from them.
  """

  multiplications: float = 0.0
  rounded: float = 0.0
  products: float = 0.0
  transformed: float = 0.0
  moved: float = 0.0
  mirrored: float = 0.0

  def seconds(self, rates: Rates, dtype: jnp.dtype) -> float:
    """How long it takes, at these rates."""
    narrow = jnp.dtype(dtype).itemsize < 4
    return (
      self.multiplications / rates.float32
      + self.rounded / rates.rounded
      + self.products / (rates.bfloat16 if narrow else rates.float32)
      + self.transformed / rates.transformed
      + self.moved / rates.moved
      + self.mirrored / rates.mirrored
    )


@dataclasses.dataclass(frozen=True)
class Plan:
  """A choice among the ways to compute a layer, and why.

  Attributes:
    method: the cheapest.
    seconds: estimated, forward and backward, by method.
  """

  method: str
  seconds: dict[str, float]

  @classmethod
  def of(cls, seconds: dict[str, float]) -> 'Plan':
    """Takes the cheapest."""
    return cls(min(seconds, key=seconds.__getitem__), seconds)

  def __str__(self) -> str:
    """The methods, the cheapest first, with their estimates."""
    ordered = sorted(self.seconds.items(), key=lambda item: item[1])
    return ', '.join(f'{name} {1e3 * cost:.3g} ms' for name, cost in ordered)


def work(
  selection: Selection, tokens: int = 0, basis: str = 'dct'
) -> dict[str, Work]:
  """What each method does, forward and backward, by name.

  Args:
    selection: the positions of the coefficients, and the kernel's shape [N, M].
    tokens: T, that meet the kernel; 0 for its rebuilding alone, of which
      `factored` and `folded` are not capable.
    basis: `dct`, or `orthonormal`, which has no other methods than `gemm` and
      `gemm_bf16`.

  Returns:
    The work by method; that of `folded` leaves out the rebuilding of its
    quarters, see `work_on_quarters`.
  """
  n, m = selection.shape
  size = n * m
  rebuilt = multiplications(selection, basis)
  # A product's gradient has two products: with the inputs, with the kernel.
  products = 3 * tokens * size
  found = {
    'gemm': Work(2 * rebuilt, products=products, moved=2 * size),
    'gemm_bf16': Work(rounded=2 * rebuilt, products=products, moved=2 * size),
  }
  if basis != 'dct':
    return found
  found['fft'] = Work(products=products, transformed=2 * size * math.log2(size))
  found['gemm_fft'] = dataclasses.replace(
    _gemm_fft(selection), products=products
  )
  if tokens:
    (blocks, r), (_, c) = (f.shape for f in selection.frequencies)
    found['factored'] = Work(
      products=3 * tokens * blocks * r * c,
      transformed=2 * tokens * (n * math.log2(n) + m * math.log2(m)),
      moved=2 * tokens * (n + m) if blocks > 1 else 0.0,
    )
  if tokens and foldable(selection, basis):
    quarter = ((n + 1) // 2) * ((m + 1) // 2)
    found['folded'] = Work(
      products=3 * tokens * quarter * quarters(selection),
      mirrored=2 * tokens * (n + m),
    )
  return found


def _gemm_fft(selection: Selection) -> Work:
  """Both passes of what rebuilds half of a kernel that turns, or all of it."""
  length, lines = max(selection.shape), computed_lines(selection)
  blocks = len(selection.frequencies[0])
  box = math.prod(f.shape[1] for f in selection.frequencies)
  return Work(
    2 * blocks * box * lines,
    transformed=2 * lines * length * math.log2(length),
    moved=2 * lines * length,
  )


def work_on_quarters(selection: Selection) -> dict[str, Work]:
  """What `folded` does for its quarters, forward and backward, by method."""
  rebuilt = multiplications(selection)
  found = {'gemm': Work(2 * rebuilt), 'gemm_bf16': Work(rounded=2 * rebuilt)}
  if turns(selection):
    found['gemm_fft'] = _gemm_fft(selection)
  return found


def plan(
  selection: Selection,
  tokens: int = 0,
  *,
  basis: str = 'dct',
  dtype: jnp.dtype = jnp.float32,
  platform: str | None = None,
  whole: bool = True,
) -> Plan:
  """The cheapest way to compute a layer, as `auto` takes it.

  Args:
    selection: the positions of the coefficients, and the kernel's shape [N, M].
    tokens: T, that meet the kernel on a device; 0 for its rebuilding alone.
    basis: `dct` or `orthonormal`.
    dtype: of the product with the inputs. For bfloat16, kernels may be rebuilt
      by `gemm_bf16`, which rounds as these products do; not on CPUs, where it
      gains nothing.
    platform: cpu, gpu or tpu; by default JAX's own, or that of `planned_for`,
      without `fft` and `gemm_fft` unless it `has_sound_ffts`.
    whole: whether the whole kernel is wanted; parts are built by products.

  Example:
    >>> half = Selection.of('strided', (1024, 4096), keep=0.5)
    >>> chosen = plan(half, tokens=2048, platform='cpu')
    >>> str(chosen).split(', ')[:3]
    ['folded 164 ms', 'factored 258 ms', 'gemm_fft 263 ms']
  """
  ways = work(selection, tokens, basis)
  if not whole:
    ways = {name: ways[name] for name in ('gemm', 'gemm_bf16')}
  seconds = _seconds(ways, dtype, platform)
  if 'folded' in seconds:
    of_quarters = plan_quarters(selection, dtype, platform)
    seconds['folded'] += of_quarters.seconds[of_quarters.method]
  return Plan.of(seconds)


def plan_quarters(
  selection: Selection, dtype: jnp.dtype, platform: str | None = None
) -> Plan:
  """The cheapest way to the quarters of `folded`; arguments as of `plan`."""
  return Plan.of(_seconds(work_on_quarters(selection), dtype, platform))


def _seconds(
  ways: Mapping[str, Work], dtype: jnp.dtype, platform: str | None
) -> dict[str, float]:
  """How long each way takes that is open to a dtype on a platform."""
  by_fft = platform is not None or has_sound_ffts()
  platform = platform or planned_platform()
  rates = RATES.get(platform, RATES['gpu'])  # also named cuda, rocm
  may_round = platform != 'cpu' and jnp.dtype(dtype) == jnp.bfloat16
  return {
    name: done.seconds(rates, dtype)
    for name, done in ways.items()
    if (may_round or not done.rounded) and (by_fft or name not in _BY_FFT)
  }
