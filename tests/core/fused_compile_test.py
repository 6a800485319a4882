"""The fused kernel by the TPU compiler, where libtpu is: CI installs it."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from spectral_jax.core.fused import fused_product
from spectral_jax.core.panels import project
from spectral_jax.core.platform import planned_for
from spectral_jax.core.selection import Selection
from spectral_jax.training.topology import Topology

pytest.importorskip('libtpu', reason='pip install -r requirements-tpu.txt')


def compiled(
  topology: str,
  selection: Selection,
  tokens: int,
  dtype: str = 'bfloat16',
  devices: int = 1,
  precision: str | None = 'high',
) -> Any:
  """Forward and backward, each device with some of the tokens."""
  mesh = Mesh(np.array(Topology.of(topology).devices[:devices]), 'data')
  whole, split = PartitionSpec(), PartitionSpec('data')
  layer = jax.shard_map(
    lambda x, c: fused_product(x, c, selection, precision),
    mesh=mesh,
    in_specs=(split, whole),
    out_specs=split,
  )

  def both(x: jax.Array, c: jax.Array, gradient: jax.Array) -> Any:
    outputs, pull_back = jax.vjp(layer, x, c)
    return outputs, pull_back(gradient)

  n, m = selection.shape
  arguments = [
    jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    for shape, spec in (
      ((tokens, n), split),
      (selection.layout, whole),
      ((tokens, m), split),
    )
  ]
  with planned_for('tpu'):
    return jax.jit(both).lower(*arguments).compile()


@pytest.mark.parametrize(
  'topology', ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
)
def test_every_generation_takes_it(topology: str) -> None:
  # No size is a multiple of a tile's.
  selection = Selection.of('strided', (328, 776), 0.5)
  program = compiled(topology, selection, tokens=40).as_text()
  # Of two pieces: outputs, the inputs' gradient, that of the coefficients.
  assert program.count('custom_call_target="tpu_custom_call"') == 6


def test_numbers_of_32_bits_and_a_box() -> None:
  selection = Selection.of('lowpass', (256, 256), 0.1)
  program = compiled('v5e:2x2', selection, 16, 'float32').as_text()
  assert program.count('custom_call_target="tpu_custom_call"') == 12


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_default_precision_that_mosaic_lacks(dtype: str) -> None:
  selection = Selection.of('strided', (128, 128), 0.5)
  with jax.default_matmul_precision('high'):
    program = compiled('v5e:2x2', selection, 16, dtype, precision=None)
  assert 'tpu_custom_call' in program.as_text()


def test_tiles_that_nearly_fill_the_chip_s_memory() -> None:
  # Of v5p, which has the least: the gradient takes 32 MiB, a panel 10.
  where = SingleDeviceSharding(Topology.of('v5p:2x2x1').devices[0])
  tokens, base = (
    jax.ShapeDtypeStruct(shape, 'bfloat16', sharding=where)
    for shape in ((2048, 4096), (2, 2048, 4096))
  )
  jax.jit(project).lower(tokens, tokens, base, base).compile()


def test_devices_sum_what_is_stored() -> None:
  selection = Selection.of('strided', (256, 256), 0.5)
  program = compiled('v5e:2x2', selection, 64, devices=4).as_text()
  assert 'all-reduce' in program or 'reduce-scatter' in program
