"""What devices send each other in a train step: dense against spectral.

  python -m benchmarks.collectives [--width=256]

Compiles the trainer's own step for 8 (forced) CPU devices, as data=8 and as
fsdp=8, and reads the compiled program: the bytes that a block's linear layers
gather before they are used, those that their gradients reduce, and those of
parameters and of Adam's moments on each device. The selection is `strided`.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

if __name__ == '__main__':  # before JAX is imported
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import jax
import numpy as np
import optax
from absl import app, flags

from spectral_jax.layers.layer_table import aligned
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import sharding
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.program import collectives
from spectral_jax.training.settings import MeshSettings
from spectral_jax.training.step import init_state, make_train_step

_WIDTH = flags.DEFINE_integer('width', 256, 'Of the model.', lower_bound=8)
_VOCABULARY = 65
CONTENDERS = {
  'dense': LinearConfig('dense'),
  'spectral nm/2': LinearConfig(selection='strided', keep=0.5),
  'spectral nm/4': LinearConfig(selection='strided', keep=0.25),
}


def matrix_bytes(program: str) -> dict[str, int]:
  """The bytes of matrices that a compiled program gathers and reduces.

  An array counts as long as it is when it is whole. Vectors (biases, norms) are
  left out.
  """
  totals = {'gather': 0, 'reduce': 0}
  for operation in collectives(program):
    if len(operation.shape) > 1:
      way = 'gather' if operation.kind == 'all-gather' else 'reduce'
      totals[way] += operation.bytes * operation.times
  return totals


def measure(
  config: TransformerConfig, mesh_shape: tuple[int, int, int]
) -> dict[str, int]:
  """Bytes of a model's train step: gathered, reduced, and kept on a device."""
  model, optimizer = Transformer(_VOCABULARY, config), optax.adam(1e-3)
  mesh = make_mesh(MeshSettings(*mesh_shape), 8)
  state = sharding.abstract(
    jax.eval_shape(lambda: init_state(model, optimizer, 0)), mesh
  )
  tokens = jax.ShapeDtypeStruct(
    (8, config.context), np.int32, sharding=sharding.by_batch(mesh)
  )
  step: Any = make_train_step(model, optimizer, mesh, seed=0)
  compiled = step.lower(state, {'inputs': tokens, 'targets': tokens}).compile()
  kept = sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves((state.params, state.opt_state))
  )
  return {**matrix_bytes(compiled.as_text()), 'state': kept}


def block_bytes(
  linear: LinearConfig, mesh_shape: tuple[int, int, int], width: int
) -> dict[str, int]:
  """Bytes of one block: of a model of two less of a model of one."""
  one, two = (
    measure(
      TransformerConfig(64, width, layers, heads=4, linear=linear), mesh_shape
    )
    for layers in (1, 2)
  )
  return {name: two[name] - one[name] for name in two}


def main(argv: Sequence[str]) -> None:
  """Prints the tables."""
  del argv
  for mesh_shape in ((8, 1, 1), (1, 8, 1)):
    found = {
      name: block_bytes(linear, mesh_shape, _WIDTH.value)
      for name, linear in CONTENDERS.items()
    }
    rows: list[tuple[str, ...]] = [
      ('a block', 'gathered', 'reduced', 'state on a device', 'of dense')
    ]
    for name, sizes in found.items():
      shares = [
        f'{size / found["dense"][key]:.1%}' if size else '–'
        for key, size in sizes.items()
      ]
      bytes_ = (f'{size:,}' for size in sizes.values())
      rows.append((name, *bytes_, ', '.join(shares)))
    print(f'data {mesh_shape[0]}, fsdp {mesh_shape[1]}')
    print(aligned(rows))


if __name__ == '__main__':
  app.run(main)
