"""Layers on a mesh: what they store is gathered and reduced, no more.

Left to the compiler, a layer's gradient is summed over the devices as that of
its kernel, N·M numbers, and only then transformed. Here each device gathers the
stored numbers, rebuilds the kernel for itself, and transforms its own part of
the gradient, so that K numbers are gathered and K are summed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.training.sharding import batch_axes, batch_spec, split

_LAYERS = (SpectralDense, LowRankDense, nn.Dense, nn.Embed, nn.LayerNorm)


@contextlib.contextmanager
def on_mesh(mesh: Mesh) -> Iterator[None]:
  """Models that are applied within it run their layers device by device.

  Inputs [B, …] are split over the whole mesh, parameters as `split` says.
  Autodiff turns the gathering into a sum that is scattered likewise.
  """
  inside = False

  def local(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    nonlocal inside
    layer = context.module
    call = context.method_name == '__call__' and isinstance(layer, _LAYERS)
    if not call or inside or mesh.size == 1:
      return next_fun(*args, **kwargs)
    (inputs,) = args
    params = layer.variables['params']
    specs = jax.tree.map(lambda leaf: split(leaf.shape, mesh), params)
    unbound = layer.clone(parent=None, name=None)

    def run(inputs: jax.Array, parts: Any) -> jax.Array:
      whole = jax.tree.map(
        lambda part, spec: _gather(part, spec, mesh), parts, specs
      )
      return jnp.asarray(unbound.apply({'params': whole}, inputs))

    inside = True
    try:
      return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(batch_spec(mesh), specs),
        out_specs=batch_spec(mesh),
      )(inputs, params)
    finally:
      inside = False

  with nn.intercept_methods(local):
    yield


def _gather(part: jax.Array, spec: PartitionSpec, mesh: Mesh) -> jax.Array:
  """The whole parameter, marked as each device's own.

  What is a device's own has a gradient of its own, so that the gradients are
  summed here, as the numbers that are stored, and not where the rebuilt kernel
  meets the inputs.
  """
  split_here = 'fsdp' in spec
  own = tuple(a for a in batch_axes(mesh) if not (split_here and a == 'fsdp'))
  if own:
    part = jax.lax.pcast(part, own, to='varying')
  if split_here:
    axis = tuple(spec).index('fsdp')
    part = jax.lax.all_gather(part, 'fsdp', axis=axis, tiled=True)
  return part
