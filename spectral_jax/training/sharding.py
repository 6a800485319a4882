"""The mesh, and where state and batches lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spectral_jax.errors import UserError
from spectral_jax.training.settings import MeshSettings


def make_mesh(settings: MeshSettings, batch_size: int) -> Mesh:
  """A mesh with the axis `data`, over the first devices there are.

  Args:
    settings: how many devices; −1 for all.
    batch_size: sequences per (micro)batch, which the axis must divide. With −1
      the axis is the largest divisor that there are devices for.

  Raises:
    UserError: for more devices than there are, or an axis that does not divide
      the batch.
  """
  there = jax.device_count()
  data = settings.data
  if data == -1:
    data = max(d for d in range(1, there + 1) if batch_size % d == 0)
  if data > there:
    raise UserError(
      f'config.mesh.data: expected at most the {there} devices there are, got '
      f'{data}.'
    )
  if batch_size % data:
    raise UserError(
      f'config.mesh.data: expected a divisor of the microbatch of {batch_size} '
      f'sequences, got {data}.'
    )
  return jax.make_mesh(
    (data,), ('data',), (AxisType.Auto,), devices=jax.devices()[:data]
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
  """The first axis split over `data`."""
  return NamedSharding(mesh, PartitionSpec('data'))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Lays a batch on the devices, split over `data`."""
  return {
    name: jax.device_put(array, by_batch(mesh)) for name, array in batch.items()
  }
