"""The mesh, and where state and batches lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spectral_jax.errors import UserError
from spectral_jax.training.settings import MeshSettings


def make_mesh(settings: MeshSettings, batch_size: int) -> Mesh:
  """A mesh with the axes `data` and `fsdp`, over the first devices there are.

  Args:
    settings: how many devices along each axis; −1, for one of them: as many of
      those that are left as divide the batch.
    batch_size: sequences per (micro)batch, which the mesh must divide.

  Raises:
    UserError: for more devices than there are, or a mesh that does not divide
      the batch.
  """
  there = jax.device_count()
  axes = {'data': settings.data, 'fsdp': settings.fsdp}
  given = {name: size for name, size in axes.items() if size != -1}
  fixed = int(np.prod(list(given.values())))
  for name, size in axes.items():
    if size == -1:
      left = [
        d for d in range(1, there // fixed + 1) if batch_size % (d * fixed) == 0
      ]
      axes[name] = max(left, default=1)
  names = ' and '.join(f'config.mesh.{name}' for name in given) or 'config.mesh'
  size = axes['data'] * axes['fsdp']
  if size > there:
    raise UserError(
      f'{names}: expected at most the {there} devices there are, got {size}.'
    )
  if batch_size % size:
    raise UserError(
      f'{names}: expected a divisor of the microbatch of {batch_size} '
      f'sequences, got {size}.'
    )
  return jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    (AxisType.Auto,) * 2,
    devices=jax.devices()[:size],
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
  """The axes that split the batch: all along which there are devices."""
  return tuple(name for name, size in mesh.shape.items() if size > 1)


def batch_spec(mesh: Mesh) -> PartitionSpec:
  """The first axis split over all devices."""
  return PartitionSpec(batch_axes(mesh))


def by_batch(mesh: Mesh) -> NamedSharding:
  """The first axis split over all devices."""
  return NamedSharding(mesh, batch_spec(mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Lays a batch on the devices, split over all of them."""
  return {
    name: jax.device_put(array, by_batch(mesh)) for name, array in batch.items()
  }


def split(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """How an array of the train state is split over `fsdp`.

  Along the longest axis that the devices divide; of equal ones the first. What
  has no such axis lies whole on every device.

  Example:
    >>> mesh = jax.sharding.AbstractMesh((1, 4), ('data', 'fsdp'))
    >>> split((65, 128), mesh), split((2, 64, 192), mesh), split((7,), mesh)
    (P(None, 'fsdp'), P(None, None, 'fsdp'), P())
  """
  count = mesh.shape['fsdp']
  divisible = [axis for axis, size in enumerate(shape) if size % count == 0]
  if count == 1 or not divisible or not all(shape):
    return PartitionSpec()
  longest = max(divisible, key=lambda axis: shape[axis])
  return PartitionSpec(*(None,) * longest, 'fsdp')


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
  return jax.tree.map(
    lambda leaf: NamedSharding(mesh, split(np.shape(leaf), mesh)), state
  )
