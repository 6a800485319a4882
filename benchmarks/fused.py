"""A layer on a TPU, by its compiler: the kernel in memory, or on the chip.

  python -m benchmarks.fused --topology=v5e:2x2

Compiles one layer, forward and backward, in bfloat16, for one device of a slice
that need not be there, and prints what the compiler says: memory for arguments
and results, and at the peak; what it multiplies and moves. It cannot look into
a Pallas kernel; of `fused` it repeats what `panels` tells it, operations and
bytes counted from the grid. The selection is `strided`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.arguments import fail
from spectral_jax.core.fused import fused_product
from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import Selection
from spectral_jax.errors import UserError
from spectral_jax.layers.layer_table import aligned
from spectral_jax.training.topology import Topology

_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'A slice of TPUs.')
_KEEP = flags.DEFINE_float('keep', 0.5, 'Stored share of coefficients, 1/b.')
_CASES = ((8192, 4096, 4096), (16, 4096, 4096), (8192, 1024, 4096))
_METHODS = ('dense', 'gemm', 'gemm_bf16', 'fused')


def layer(method: str, selection: Selection) -> Callable[..., jax.Array]:
  """Maps inputs [T, N] and what is stored to outputs [T, M]."""
  if method == 'dense':
    return jnp.dot
  if method == 'fused':
    return lambda x, c: fused_product(x, c, selection)
  return lambda x, c: x @ kernel_from_coefficients(c, selection, method)


def row(
  method: str, case: tuple[int, int, int], keep: float, device: jax.Device
) -> tuple[str, ...]:
  """What the compiler says of a layer."""
  t, n, m = case
  selection = Selection.of('strided', (n, m), keep)
  stored = (n, m) if method == 'dense' else selection.layout
  function = layer(method, selection)

  def both(x: jax.Array, w: jax.Array, gradient: jax.Array) -> Any:
    outputs, pull_back = jax.vjp(function, x, w)
    return outputs, pull_back(gradient)

  where = jax.sharding.SingleDeviceSharding(device)
  abstract = [
    jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)
    for shape in ((t, n), stored, (t, m))
  ]
  started = time.perf_counter()
  with planned_for('tpu'):
    compiled = jax.jit(both).lower(*abstract).compile()
  seconds = time.perf_counter() - started
  memory: Any = compiled.memory_analysis()
  cost: Any = compiled.cost_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return (
    method,
    f'{held / 2**20:.0f}',
    f'{memory.peak_memory_in_bytes / 2**20:.0f}',
    f'{cost["flops"] / 1e9:.1f}',
    f'{cost["bytes accessed"] / 2**20:.0f}',
    f'{seconds:.0f}',
  )


def main(argv: Sequence[str]) -> None:
  """Prints a table for each case."""
  del argv
  jax.config.update('jax_platforms', 'cpu')  # a TPU of this machine rests
  try:
    device = Topology.of(_TOPOLOGY.value).devices[0]
  except UserError as error:
    fail(str(error))
  head = ('arguments and results, MiB', 'peak', 'GFLOP', 'moved, MiB', 's')
  for t, n, m in _CASES:
    rows: list[tuple[str, ...]] = [(f'{n}×{m}, {t} tokens', *head)]
    rows += [row(name, (t, n, m), _KEEP.value, device) for name in _METHODS]
    print(aligned(rows), flush=True)


if __name__ == '__main__':
  app.run(main)
