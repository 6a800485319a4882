"""Parameters of any linen model in files, and what their layers store."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import serialization

from spectral_jax import untrusted
from spectral_jax.core.selection import Selection
from spectral_jax.errors import UserError, first_line
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.training.workdir import write_text

# Bytes a coefficient that finding out the positions of a kernel's takes.
_WORK = 32


def read(path: Path) -> Any:
  """A tree of arrays: an Orbax checkpoint's folder, or Flax's msgpack file.

  Raises:
    UserError: if it is neither.
  """
  try:
    if path.is_dir():
      untrusted.check_folder(path)
      with ocp.StandardCheckpointer() as checkpointer:
        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        metadata = checkpointer.metadata(path.absolute()).item_metadata.tree
        needed = sum(
          math.prod(leaf.shape) * leaf.dtype.itemsize
          for leaf in jax.tree.leaves(metadata)
        )
        untrusted.check_fits(needed, 'what it says that it holds')
        return checkpointer.restore(
          path.absolute(),
          jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
              leaf.shape, leaf.dtype, sharding=where
            ),
            metadata,
          ),
        )
    data = untrusted.read_bytes(path, untrusted.memory())
    tree = serialization.msgpack_restore(data)
    if not isinstance(tree, dict):
      raise TypeError(f'it holds {type(tree).__name__}, no dictionary')
    return jax.tree.map(jnp.asarray, tree)
  except Exception as error:  # of many kinds
    raise UserError(
      f'{path}: cannot be read ({type(error).__name__}: {first_line(error)}); '
      'expected a run, an Orbax checkpoint of parameters, or a file of '
      "Flax's msgpack."
    ) from error


def write(params: Any, path: Path, *, like: Path) -> None:
  """Writes a tree in the format of another one's file or folder.

  Raises:
    UserError: if it cannot.
  """
  try:
    if like.is_dir():
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), params)
      return
    temporary = path.with_name(path.name + '.tmp')
    data = serialization.msgpack_serialize(jax.device_get(params))
    temporary.write_bytes(data)
    temporary.replace(path)
  except OSError as error:
    raise UserError(f'OUT: {path}: {error.strerror}; name another.') from None


def read_rules(path: str | None) -> list[Rule]:
  """The rules in a JSON file.

  Raises:
    UserError: if there are none, or they are no rules.
  """
  if path is None:
    raise UserError('--rules: missing; name a JSON file of rules.')
  try:
    entries: Any = untrusted.read_json(Path(path).expanduser())
    if not isinstance(entries, list) or not entries:
      raise TypeError('expected [{"path": …, "keep": …}, …]')
    for entry in entries:
      if type(entry.get('keep')) is int and entry['keep'] == 1:
        entry['keep'] = 1.0  # JSON has one kind of number: all, not one
    return [Rule(**entry) for entry in entries]
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise UserError(
      f'--rules: {path} holds no list of rules ({error}).'
    ) from None


def _layers_path(path: Path) -> Path:
  return path.with_name(path.name + '.layers.json')


def _whole(numbers: Any) -> tuple[int, ...]:
  if not all(type(number) is int for number in numbers):
    raise TypeError(f'expected whole numbers, got {numbers}')
  return tuple(numbers)


def write_layers(layers: Mapping[str, SpectralKernel], path: Path) -> None:
  """Writes what the layers of the parameters at `path` store, beside them."""
  entries = {name: dataclasses.asdict(layer) for name, layer in layers.items()}
  write_text(_layers_path(path), json.dumps(entries, indent=2) + '\n')


def read_layers(path: Path) -> dict[str, SpectralKernel]:
  """What the layers of the parameters at `path` store.

  Raises:
    UserError: if it is not told beside them.
  """
  file = _layers_path(path)
  try:
    layers = {
      name: SpectralKernel(
        Selection(
          **entry['selection'] | {'shape': _whole(entry['selection']['shape'])}
        ),
        entry['basis'],
        _whole(entry['shape']),
        _whole(entry['stack']),
      )
      for name, entry in untrusted.read_json(file).items()
    }
    largest = max(
      (layer.selection.size for layer in layers.values()), default=0
    )
    kernels = sum(math.prod(layer.shape) for layer in layers.values())
    untrusted.check_fits(4 * kernels + _WORK * largest, 'the kernels')
    return layers
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(
      f'{file}: cannot be read ({error}); it says what the layers store, and '
      'is written by convert.'
    ) from None
