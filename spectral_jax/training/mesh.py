"""The mesh: which devices split what of the work."""

import collections
import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from spectral_jax.errors import UserError
from spectral_jax.training.settings import MeshSettings


def make_mesh(
  settings: MeshSettings,
  batch_size: int,
  heads: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with the axes `data`, `fsdp` and `tensor`, over the first devices.

  Of several processes each gives its first devices, as many as the others.
  Several TPU slices share the batch, along `data`.

  Args:
    settings: how many devices along each axis; −1, for one of them: as many of
      those that are left as divide the batch, or the heads.
    batch_size: sequences per (micro)batch, which `data` times `fsdp` divides.
    heads: of the model, which `tensor` divides.
    devices: by default, all that there are.

  Raises:
    UserError: for more devices than there are, or a mesh that does not divide
      the batch or the heads, or that the processes or slices do not divide.
  """
  devices = jax.devices() if devices is None else devices
  by_process = collections.defaultdict(list)
  for device in devices:
    by_process[device.process_index].append(device)
  processes, slices = len(by_process), _slices(devices)
  axes = dict(vars(settings))
  given = {name: size for name, size in axes.items() if size != -1}
  fixed = math.prod(given.values())

  def fits(data: int, fsdp: int, tensor: int) -> bool:
    return (
      batch_size % (data * fsdp) == 0
      and heads % tensor == 0
      and data * fsdp * tensor % processes == 0
      and data % slices == 0
    )

  for name, size in axes.items():
    if size == -1:
      left = range(1, len(devices) // fixed + 1)
      axes[name] = max(
        (d for d in left if fits(**(axes | {name: d}))), default=1
      )
  data, fsdp, tensor = axes.values()
  size = data * fsdp * tensor
  names = ' and '.join(
    f'config.mesh.{name}' for name, size in axes.items() if size > 1
  )
  names = names or 'config.mesh'
  if size > len(devices):
    raise UserError(
      f'{names}: expected at most the {len(devices)} devices there are, got '
      f'{size}.'
    )
  if data % slices:
    raise UserError(
      f'config.mesh.data: expected a multiple of the {slices} slices, got '
      f'{data}.'
    )
  if batch_size % (data * fsdp):
    raise UserError(
      'config.mesh.data times config.mesh.fsdp: expected a divisor of the '
      f'microbatch of {batch_size} sequences, got {data * fsdp}.'
    )
  if heads % tensor:
    raise UserError(
      f'config.mesh.tensor: expected a divisor of the {heads} heads, got '
      f'{tensor}.'
    )
  if size % processes:
    raise UserError(
      f'{names}: expected a multiple of the {processes} processes that divides '
      f'the microbatch of {batch_size} sequences, got {size}.'
    )
  used = [d for own in by_process.values() for d in own[: size // processes]]
  shape, within = (data, fsdp, tensor), (data // slices, fsdp, tensor)
  if slices > 1:
    arranged = mesh_utils.create_hybrid_device_mesh(
      within, (slices, 1, 1), devices=used
    )
  else:
    arranged = mesh_utils.create_device_mesh(shape, devices=used)
  return Mesh(arranged, tuple(axes), axis_types=(AxisType.Auto,) * 3)


def _slices(devices: Sequence[jax.Device]) -> int:
  """How many TPU slices there are, between which messages are slow."""
  if devices[0].platform != 'tpu':
    return 1
  return len({getattr(device, 'slice_index', 0) for device in devices})
