"""Programs that are compiled and not run: what that takes, and what they cost.

Figures of a TPU that is not here are its compiler's own.
"""

import dataclasses
import itertools
import time
from typing import Any

import jax

from benchmarks.arguments import fail
from spectral_jax.errors import UserError
from spectral_jax.training.topology import Topology


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A program for one kind of device, and the time that it took to make.

  Attributes:
    trace: seconds from Python to a jaxpr.
    lower: seconds from there to StableHLO.
    compile: seconds from there to the executable.
    size: bytes of the executable, constants among them.
    memory: bytes at the most, arguments and results among them.
    flops: as the compiler counts them: not those of custom calls, which are a
      CPU's products and FFTs, and a loop's body once.
    accessed: bytes read and written.
    seconds: that a TPU's compiler expects; None where it knows none.
  """

  trace: float
  lower: float
  compile: float
  size: int
  memory: int
  flops: float
  accessed: float
  seconds: float | None

  @classmethod
  def of(cls, jitted: Any, *arguments: Any) -> 'Compiled':
    """Compiles a jitted function for (abstract) arguments."""
    times = [time.perf_counter()]
    traced = jitted.trace(*arguments)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    trace, lower, compile_ = (
      end - start for start, end in itertools.pairwise(times)
    )
    costs = compiled.cost_analysis()
    expected = costs.get('optimal_seconds', 0.0)
    return cls(
      trace,
      lower,
      compile_,
      size=len(compiled.runtime_executable().serialize()),
      memory=memory_of(compiled),
      flops=costs.get('flops', 0.0),
      accessed=costs.get('bytes accessed', 0.0),
      seconds=expected if expected > 0 else None,  # of a whole step, nonsense
    )


def memory_of(compiled: jax.stages.Compiled) -> int:
  """Bytes that a program takes at the most, on each device."""
  sizes: Any = compiled.memory_analysis()
  held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
  # A TPU's compiler counts temporaries in the peak alone, a CPU's in the other.
  return max(
    sizes.peak_memory_in_bytes,
    held - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes,
  )


def devices_of(topology: str) -> tuple[jax.Device, ...]:
  """The TPUs of a slice that is not here, or one line and status 2."""
  # Nothing is computed, and a TPU of this machine, if any, is left alone.
  jax.config.update('jax_platforms', 'cpu')
  try:
    return Topology.of(topology).devices
  except UserError as error:
    fail(str(error))


def compile_anew() -> None:
  """What is compiled from now on is not read from a cache on disk."""
  jax.config.update('jax_enable_compilation_cache', False)
