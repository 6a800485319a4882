"""TPU slices that are not here, as the compiler knows them."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from spectral_jax.errors import UserError, first_line

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Generation:
  """A generation of TPUs.

  Attributes:
    example: the name of a small slice.
    largest: the name of the largest slice that the compiler knows.
    memory: bytes a device, as the compiler has them.
    devices: JAX's devices a chip.
    options: for the compiler to take a chip as the runtime does.
  """

  example: str
  largest: str
  memory: int
  devices: int = 1
  options: tuple[tuple[str, str], ...] = ()


# The memory is the limit that libtpu 0.0.42 gives where a program exceeds it.
GENERATIONS = {
  'v4': Generation(
    'v4:2x2x1',
    'v4:8x8x8',
    32 * _GIB,
    options=(('chip_config_name', 'megacore'),),
  ),
  'v5e': Generation('v5e:2x4', 'v5e:16x16', 16 * _GIB),
  'v5p': Generation('v5p:2x2x1', 'v5p:16x16x24', 96 * _GIB),
  'v6e': Generation('v6e:2x4', 'v6e:16x16', 33822867456),
  'tpu7x': Generation('tpu7x:2x2x1', 'tpu7x:8x8x8', 95 * _GIB, devices=2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, or several slices, of TPUs.

  Attributes:
    generation: of the chips.
    devices: to compile for.
  """

  generation: Generation
  devices: tuple[jax.Device, ...]

  @classmethod
  def of(cls, name: str, slices: int = 1) -> 'Topology':
    """The slices of a name, as v5e:16x16.

    Raises:
      UserError: if there is none of that name, or libtpu is not installed.
    """
    generation = GENERATIONS.get(name.partition(':')[0])
    if importlib.util.find_spec('libtpu') is None:
      raise UserError(
        'libtpu, which compiles for TPUs, is not installed: pip install -r '
        'requirements-tpu.txt'
      )
    try:
      if generation is None:
        raise ValueError('no such generation')
      options: dict[str, Any] = dict(generation.options)
      if slices > 1:
        options['num_slices'] = slices
      with _quiet():
        devices = topologies.get_topology_desc(
          platform='tpu', topology_name=name, **options
        ).devices
    except (ValueError, jax.errors.JaxRuntimeError) as error:
      known = ', '.join(
        f'{g.example} to {g.largest.partition(":")[2]}'
        for g in GENERATIONS.values()
      )
      raise UserError(
        f'--topology: there is no {name} ({first_line(error)}); expected '
        f'one of {known}.'
      ) from None
    return cls(generation, tuple(devices))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps libtpu from looking for a TPU machine and telling what it misses."""
  wanted = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
  }
  before = dict(os.environ)
  os.environ.update(wanted)
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)
