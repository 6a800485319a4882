"""Layers on a mesh: what they store is gathered and reduced, no more.

Left to the compiler, a layer's gradient is summed over the devices as that of
its kernel, N·M numbers, and only then transformed. Here each device gathers the
stored numbers, rebuilds the kernel for itself, or those of its rows or columns
that it needs, and transforms its own part of the gradient, so that K numbers
are gathered and K are summed. Asked to share the rebuilding, each device
rebuilds its part of what all of them need, and N·M numbers are gathered and
summed as well, but no product is computed twice.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.linen.dtypes import promote_dtype
from jax.sharding import Mesh, PartitionSpec

from spectral_jax.core.part import Part
from spectral_jax.core.platform import planned_for
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.layers.product import contract
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import (
  SCANNED,
  SPLIT_INPUTS,
  SPLIT_OUTPUTS,
)
from spectral_jax.training import sharding
from spectral_jax.training.sharding import batch_spec, wide_axes

_LAYERS = (SpectralDense, LowRankDense, nn.Dense, nn.Embed, nn.LayerNorm)


@contextlib.contextmanager
def on_mesh(
  mesh: Mesh, *, gathered: bool = False, shared: bool = False
) -> Iterator[None]:
  """Models that are applied within it run their layers device by device.

  Inputs [B, …] are split over `data` and `fsdp`, heads and hidden units over
  `tensor`, parameters as `sharding.split` says. Autodiff turns the gathering
  into a sum that is scattered likewise.

  Args:
    mesh: the devices.
    gathered: whether the parameters are those that `gather_all` returns.
    shared: whether devices that need the same of a kernel share its rebuilding.
  """
  inside = False

  def local(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    nonlocal inside
    layer, method = context.module, context.method_name
    here = isinstance(layer, _LAYERS) and (gathered or mesh.size > 1)
    if inside or not here or method not in ('setup', '__call__'):
      return next_fun(*args, **kwargs)
    if method == 'setup':  # it would look at parameters that are not its shape
      return None
    params = layer.variables['params']
    axis = _split_axis(layer.name, mesh)
    own = {name: _own_axes(layer.name, name, mesh) for name in params}
    if gathered:
      specs = {name: PartitionSpec(axes) for name, axes in own.items()}
    else:
      specs = {
        name: sharding.split(layer.name, name, leaf.shape, mesh)
        for name, leaf in params.items()
      }
    unbound = layer.clone(parent=None, name=None)

    def run(stored: Any, inputs: jax.Array) -> jax.Array:
      whole = {
        name: leaf[0]
        if gathered
        else _gather(name, leaf, specs[name], own[name])
        for name, leaf in stored.items()
      }
      if axis is None and not (shared and isinstance(layer, SpectralDense)):
        return jnp.asarray(unbound.apply({'params': whole}, inputs))
      return _apply(unbound, whole, inputs, axis, mesh, shared)

    between = (None,) * (args[0].ndim - 2)
    split_features = PartitionSpec(*batch_spec(mesh), *between, 'tensor')
    inside = True
    try:
      return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(specs, split_features if axis == 0 else batch_spec(mesh)),
        out_specs=split_features if axis == 1 else batch_spec(mesh),
      )(params, *args)
    finally:
      inside = False

  with planned_for(sharding.platform(mesh)), nn.intercept_methods(local):
    yield


def gather_all(
  params: Any,
  layers: Mapping[str, SpectralKernel],
  method: str,
  mesh: Mesh,
  *,
  dtype: Any = jnp.float32,
  shared: bool = False,
) -> Any:
  """Gathers what layers store and rebuilds kernels, once for many microbatches.

  Each device has a copy of its own of all that it needs, and a gradient of its
  own: pulled back through this function, it is summed over the devices as what
  is stored.

  Args:
    params: of a transformer, split as `sharding.split` says.
    layers: its spectral layers by path, see `find_layers`.
    method: how kernels are rebuilt.
    mesh: the devices.
    dtype: of the products that kernels are for, see `plan`.
    shared: whether devices that need the same of a kernel share its rebuilding.

  Returns:
    The parameters of the model with dense layers for spectral ones, each leaf
    of a layer [*stack, devices, …].
  """
  flat = traverse_util.flatten_dict(params)
  # The positions' embedding is no layer's: the compiler takes care of it.
  loose = {keys: leaf for keys, leaf in flat.items() if len(keys) == 1}
  stored = {keys: leaf for keys, leaf in flat.items() if len(keys) > 1}
  specs = {
    keys: where.spec
    for keys, where in traverse_util.flatten_dict(
      sharding.of_state(params, mesh)
    ).items()
  }
  spectral = {
    (*path.split('/'), 'coefficients'): kernel
    for path, kernel in layers.items()
  }

  def spec(keys: tuple[str, ...]) -> PartitionSpec:
    stack = (None,) * keys.count(SCANNED)
    return PartitionSpec(*stack, _own_axes(keys[-2], keys[-1], mesh))

  def renamed(keys: tuple[str, ...]) -> tuple[str, ...]:
    return (*keys[:-1], 'kernel') if keys in spectral else keys

  def local(parts: Any) -> Any:
    whole = {}
    for keys, leaf in parts.items():
      layer, name = keys[-2:]
      leaf = _gather(name, leaf, specs[keys], _own_axes(layer, name, mesh))
      if keys in spectral:
        axis = _split_axis(layer, mesh)
        kernel = spectral[keys]
        leaf = _rebuild(kernel, leaf, method, dtype, axis, mesh, shared)
      whole[renamed(keys)] = jnp.expand_dims(leaf, keys.count(SCANNED))
    return whole

  gathered = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=({keys: specs[keys] for keys in stored},),
    out_specs={renamed(keys): spec(keys) for keys in stored},
  )(stored)
  return traverse_util.unflatten_dict(loose | gathered)


def _split_axis(layer: str, mesh: Mesh) -> int | None:
  """0 or 1, if devices share the rows or the columns of a layer's kernel."""
  if mesh.shape['tensor'] == 1:
    return None
  if layer in SPLIT_INPUTS:
    return 0
  return 1 if layer in SPLIT_OUTPUTS else None


def _count(names: tuple[str, ...], mesh: Mesh) -> int:
  """The devices along some axes."""
  return math.prod(mesh.shape[name] for name in names)


def _part(axis: int, names: tuple[str, ...], mesh: Mesh) -> Part:
  """The rows or columns that are this device's, of those along some axes."""
  return Part(axis, jax.lax.axis_index(names), _count(names, mesh))


def _rebuild(
  kernel: SpectralKernel,
  coefficients: jax.Array,
  method: str,
  dtype: Any,
  axis: int | None,
  mesh: Mesh,
  shared: bool,
) -> jax.Array:
  """What this device needs of a kernel, or of a stack of them.

  Shared are the longer of rows and columns, which divides all products. A
  kernel that the devices do not divide is rebuilt by each of them.
  """
  shape = kernel.selection.shape
  along = shape.index(max(shape)) if axis is None else axis
  names: tuple[str, ...] = () if axis is None else ('tensor',)
  others = tuple(name for name in wide_axes(mesh) if name != 'tensor')
  if not others or shape[along] % _count(names + others, mesh):
    shared = False
  if shared:
    names += others
  part = _part(along, names, mesh) if names else None
  rebuilt = kernel.rebuild(coefficients, method, part, dtype)
  if not shared:
    return rebuilt
  gathered_axis = rebuilt.ndim - 2 + along
  return jax.lax.all_gather(rebuilt, others, axis=gathered_axis, tiled=True)


def _own_axes(layer: str, name: str, mesh: Mesh) -> tuple[str, ...]:
  """The axes along which devices use a parameter each for something else."""
  if layer in SPLIT_OUTPUTS or (layer in SPLIT_INPUTS and name != 'bias'):
    return wide_axes(mesh)
  return tuple(axis for axis in wide_axes(mesh) if axis != 'tensor')


def _gather(
  name: str, leaf: jax.Array, spec: PartitionSpec, own: tuple[str, ...]
) -> jax.Array:
  """The whole parameter, marked as each device's own.

  What is a device's own has a gradient of its own, so that the gradients are
  summed here, as the numbers that are stored, and not where the rebuilt kernel
  meets the inputs. Of a dense kernel or bias that `tensor` splits, the device
  needs no more than it has.
  """
  split_over = {
    axis: (names,) if isinstance(names, str) else names
    for axis, names in enumerate(spec)
    if names is not None
  }
  differing = {name for names in split_over.values() for name in names}
  if same := tuple(axis for axis in own if axis not in differing):
    leaf = jax.lax.pcast(leaf, same, to='varying')
  for axis, names in split_over.items():
    if names != ('tensor',) or name not in ('kernel', 'bias'):
      leaf = jax.lax.all_gather(leaf, names, axis=axis, tiled=True)
  return leaf


def _apply(
  layer: Any,
  params: Mapping[str, jax.Array],
  inputs: jax.Array,
  axis: int | None,
  mesh: Mesh,
  shared: bool,
) -> jax.Array:
  """A linear layer, maybe with some of its inputs or of its outputs here."""
  if isinstance(layer, SpectralDense):
    inputs_N = inputs.shape[-1] * (mesh.shape['tensor'] if axis == 0 else 1)
    kernel, stored = layer.stored((inputs_N,)), params['coefficients']
    dtype = layer.dtype or jnp.result_type(inputs, stored)
    factors = [
      _rebuild(kernel, stored, layer.method, dtype, axis, mesh, shared)
    ]
  elif isinstance(layer, LowRankDense):
    factors = [params['down'], params['up']]
    if axis is not None:
      part = _part(axis, ('tensor',), mesh)
      factors[axis] = part.cut(factors[axis], axis)
  else:
    factors = [params['kernel']]
  bias = params.get('bias')
  inputs, bias, *factors = promote_dtype(
    inputs, bias, *factors, dtype=layer.dtype
  )
  outputs = inputs
  for factor in factors:
    outputs = contract(outputs, factor, None, axis=(outputs.ndim - 1,))
  if axis == 0:
    outputs = jax.lax.psum(outputs, 'tensor')
  if bias is not None:
    outputs += jnp.expand_dims(bias, range(outputs.ndim - 1))
  return outputs
