"""Where a train state and its batches lie on a mesh."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from spectral_jax.models.transformer import (
  SCANNED,
  SPLIT_INPUTS,
  SPLIT_OUTPUTS,
)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def platform(mesh: Mesh) -> str:
  """Of the devices, which need not be those of this machine."""
  name: str = mesh.devices.flat[0].platform
  return name


def wide_axes(mesh: Mesh) -> tuple[str, ...]:
  """The axes along which there are several devices."""
  return tuple(name for name, size in mesh.shape.items() if size > 1)


def batch_spec(mesh: Mesh) -> PartitionSpec:
  """The first axis split over all devices but those along `tensor`."""
  return PartitionSpec(tuple(a for a in wide_axes(mesh) if a != 'tensor'))


def by_batch(mesh: Mesh) -> NamedSharding:
  """The first axis split over all devices but those along `tensor`."""
  return NamedSharding(mesh, batch_spec(mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Lays a batch, which every process has, on the devices.

  It is split over all of them but those along `tensor`.
  """
  return {
    name: jax.make_array_from_callback(
      array.shape, by_batch(mesh), array.__getitem__
    )
    for name, array in batch.items()
  }


def split(
  layer: str, name: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
  """How a parameter of a layer, or its moments, is split.

  A dense kernel that `tensor` splits has its outputs or its inputs along that
  axis, and so has the bias of split outputs. Whatever else such a layer stores
  is split over `fsdp` and `tensor` alike, all other parameters over `fsdp`:
  along the longest axis that the devices divide; of equal ones the first. What
  has no such axis lies whole on every device.

  Example:
    >>> mesh = jax.sharding.AbstractMesh((1, 4, 2), ('data', 'fsdp', 'tensor'))
    >>> split('embed', 'embedding', (65, 128), mesh)
    P(None, 'fsdp')
    >>> split('mlp_in', 'kernel', (128, 512), mesh)
    P('fsdp', 'tensor')
    >>> split('mlp_in', 'coefficients', (2, 64, 256), mesh)
    P(None, None, ('fsdp', 'tensor'))
    >>> split('mlp_in', 'coefficients', (7,), mesh)
    P()
  """
  wide = wide_axes(mesh)
  axes: list[Any] = [None] * len(shape)
  ways: list[tuple[str, ...]] = [('fsdp',)]
  if 'tensor' in wide and layer in SPLIT_OUTPUTS + SPLIT_INPUTS:
    if name == 'kernel':
      axes[-1 if layer in SPLIT_OUTPUTS else -2] = 'tensor'
    elif name != 'bias':
      ways.insert(0, ('fsdp', 'tensor'))
    elif layer in SPLIT_OUTPUTS:
      axes[-1] = 'tensor'
  for way in ways:
    names = tuple(name for name in way if name in wide)
    count = math.prod(mesh.shape[name] for name in names)
    divisible = [
      axis
      for axis, size in enumerate(shape)
      if axes[axis] is None and size and size % count == 0
    ]
    if names and divisible:
      longest = max(divisible, key=lambda axis: shape[axis])
      axes[longest] = names if len(names) > 1 else names[0]
      break
  while axes and axes[-1] is None:
    axes.pop()
  return PartitionSpec(*axes)


def abstract(state: Any, mesh: Mesh) -> Any:
  """The shapes of a train state, abstract or not, each where it lies."""
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    state,
    of_state(state, mesh),
  )


def of_state(state: Any, mesh: Mesh) -> Any:
  """The sharding of each array of a train state, or of parameters."""

  def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    keys = [
      step.key for step in path if isinstance(step, jax.tree_util.DictKey)
    ]
    layer, name = ['', '', *keys][-2:]
    shape = np.shape(leaf)
    if SCANNED in keys and shape:  # the layers of a stack are not parted
      return NamedSharding(
        mesh, PartitionSpec(None, *split(layer, name, shape[1:], mesh))
      )
    return NamedSharding(mesh, split(layer, name, shape, mesh))

  return jax.tree_util.tree_map_with_path(of_leaf, state)
