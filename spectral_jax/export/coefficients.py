"""A model as its coefficients, and what rebuilds it of them, in one small file.

A file of safetensors: JSON at its head, then the numbers. A parameter lies
under its path, with dots; integers have their scales beside them, PATH.scales.
Of a layer with many zeros, as of a run that drops weights, the others are
there, and in PATH.places a bit for each number of the layer, 1 for those.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray
from safetensors.numpy import save

from spectral_jax.errors import UserError
from spectral_jax.export.quantize import (
  SCALE,
  Quantized,
  quantize,
  stored_shapes,
)
from spectral_jax.export.run_metadata import read_run, run_metadata
from spectral_jax.export.tensor_file import TensorFile
from spectral_jax.export.trained import (
  Options,
  Trained,
  check_believable,
  leaf_shapes,
)
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import Transformer
from spectral_jax.training.settings import Settings

KEY = 'spectral_jax'  # of the metadata; no other file has it
_VERSION = '1'
_SCALES = '.scales'
_PLACES = '.places'
# Names of what the layers of blocks store, and of what only embeds.
_LINEAR = ('coefficients', 'kernel', 'down', 'up')
_VECTORS = ('bias', 'scale')
_DROPPED = ('.coefficients', '.kernel')  # which may have many zeros
_BITS = {'int8': 8, 'uint8': 4}  # the latter by twos
_FLOATS = ('float32', 'bfloat16')


def write(trained: Trained, out: Path, options: Options) -> None:
  """Writes a model's parameters, its recipe and its tokenizer.

  Args:
    trained: what to write, with a recipe and a tokenizer.
    out: the file.
    options: dtype: of all numbers (float32, the default, or bfloat16); or int8
      or int4, of coefficients and kernels. Embeddings and the head are then
      int8, biases and norms bfloat16.

  Raises:
    ValueError: without a recipe or a tokenizer.
  """
  if not trained.recipe or trained.tokenizer is None:
    raise ValueError('trained: expected a recipe and a tokenizer; give both.')
  dtype = options.dtype or 'float32'
  tensors: dict[str, NDArray[Any]] = {}
  leaves = traverse_util.flatten_dict(trained.params, sep='.')
  for name, leaf in jax.device_get(leaves).items():
    tensors |= _encoded(name, np.asarray(leaf, np.float32), dtype)
  own = {
    KEY: _VERSION,
    'sha256': _digest(tensors),
    'layers': json.dumps(_described(trained.layers())),
  }
  out.write_bytes(save(tensors, own | run_metadata(trained)))


def read(file: TensorFile) -> Trained:
  """Reads what `write` wrote.

  Raises:
    UserError: for a file that is none, is damaged, or tells what is not so.
  """
  path = file.path
  if file.metadata.get(KEY) != _VERSION:
    raise UserError(
      f'{path}: expected version {_VERSION}, got '
      f'{file.metadata.get(KEY)!r}; take a newer spectral_jax.'
    )
  if file.metadata.get('sha256') != _digest(file.tensors):
    raise UserError(f'{path}: not what was written; fetch it again.')
  recipe, tokenizer, digest = read_run(file)
  config = Settings.from_mapping(recipe).model
  model = Transformer(tokenizer.vocabulary_size, config)
  try:
    check_believable(model, file.bytes, len(file.tensors))
  except ValueError as error:
    raise UserError(f'{path}: metadata: {error}') from None
  leaves = {
    name: jnp.asarray(_decoded(file, name, shape))
    for name, shape in leaf_shapes(model).items()
  }
  file.check_all_taken()
  params = traverse_util.unflatten_dict(leaves, sep='.')
  trained = Trained(model, params, tokenizer, recipe, digest)
  if file.json('layers') != _described(trained.layers()):
    raise UserError(
      f'{path}: metadata: the layers are not those of the recipe.'
    )
  return trained


def _bits(name: str, dtype: str) -> int | None:
  """Of how many bits the integers of a parameter are; None for floats."""
  *_, layer, leaf = ['', *name.split('.')]
  if dtype in _FLOATS or leaf in _VECTORS:
    return None
  in_block = leaf in _LINEAR and layer != 'head'
  return 4 if dtype == 'int4' and in_block else 8


def _encoded(
  name: str, leaf: NDArray[np.float32], dtype: str
) -> dict[str, NDArray[Any]]:
  """The tensors that stand for a parameter."""
  bits = _bits(name, dtype)
  there = leaf != 0
  wide = bits or (32 if dtype == 'float32' else 16)
  if name.endswith(_DROPPED) and (leaf.size - there.sum()) * wide > leaf.size:
    places = np.packbits(there, bitorder='little')
    return {name + _PLACES: places} | _numbers(name, leaf[there], bits, dtype)
  return _numbers(name, leaf, bits, dtype)


def _numbers(
  name: str, numbers: NDArray[np.float32], bits: int | None, dtype: str
) -> dict[str, NDArray[Any]]:
  """The tensors that stand for numbers."""
  if bits:
    stored = quantize(numbers.ravel(), bits)
    return {name: stored.integers, name + _SCALES: stored.scales}
  return {name: numbers.astype('float32' if dtype == 'float32' else SCALE)}


def _decoded(
  file: TensorFile, name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
  """Takes a parameter out of a file."""
  if name + _PLACES not in file.tensors:
    return _taken(file, name, shape)
  count = math.prod(shape)
  places = file.take_of(name + _PLACES, ('uint8',), (-(-count // 8),))
  there = np.unpackbits(places, count=count, bitorder='little').astype(bool)
  leaf = np.zeros(count, np.float32)
  leaf[there] = _taken(file, name, (int(there.sum()),))
  return leaf.reshape(shape)


def _taken(
  file: TensorFile, name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
  """Takes numbers out of a file, and their scales if they are integers."""
  dtype = file.tensors[name].dtype.name if name in file.tensors else ''
  if dtype not in _BITS:
    return file.take(name, *shape)
  count = math.prod(shape)
  integers, scales = stored_shapes(count, _BITS[dtype])
  stored = Quantized(
    file.take_of(name, (dtype,), integers),
    file.take_of(name + _SCALES, (SCALE.name,), scales),
  )
  return stored.numbers(count).reshape(shape)


def _described(layers: Mapping[str, SpectralKernel]) -> dict[str, Any]:
  """What the layers store, as JSON has it."""
  entries = {path: dataclasses.asdict(layer) for path, layer in layers.items()}
  described: dict[str, Any] = json.loads(json.dumps(entries))
  return described


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
  """A SHA-256 of tensors and their names."""
  digest = hashlib.sha256()
  for name in sorted(tensors):
    digest.update(name.encode() + tensors[name].tobytes())
  return digest.hexdigest()
