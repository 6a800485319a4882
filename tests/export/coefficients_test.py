"""A small file holds a model, and no other file passes for one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from safetensors.numpy import load_file, save_file

from spectral_jax.data.tokenizer import ByteTokenizer
from spectral_jax.errors import UserError
from spectral_jax.export import coefficients
from spectral_jax.export.loading import load_exported
from spectral_jax.export.tensor_file import TensorFile
from spectral_jax.export.trained import Options, Trained
from tests.export.models import CHARACTERS, small


def written(trained: Trained, folder: Path, dtype: str = 'float32') -> Path:
  path = folder / f'{dtype}.safetensors'
  coefficients.write(trained, path, Options(dtype))
  return path


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
  return written(small(), tmp_path_factory.mktemp('whole')).read_bytes()


@pytest.fixture
def path(whole: bytes, tmp_path: Path) -> Path:
  path = tmp_path / 'model.safetensors'
  path.write_bytes(whole)
  return path


@pytest.mark.parametrize('linear', ['spectral', 'dense', 'low_rank'])
def test_float32_is_read_back_as_it_was(linear: str, tmp_path: Path) -> None:
  trained = small(linear=linear, scan=linear != 'dense')
  trained.recipe['data']['path'] = '/home/me/text'
  trained.recipe['mesh']['data'] = 4
  back = load_exported(written(trained, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, back.params, trained.params)
  assert back.model == trained.model
  assert back.tokenizer == CHARACTERS
  assert back.digest == 'of some text'
  assert back.recipe['data']['path'] == ''
  assert back.recipe['mesh']['data'] == -1
  assert back.recipe['optimizer'] == trained.recipe['optimizer']


def test_fewer_bits_are_fewer_bytes_and_nearly_the_same(tmp_path: Path) -> None:
  trained = small(ByteTokenizer(), width=64, scan=True)
  exact, _ = ravel_pytree(trained.params)
  bytes_, errors = [], []
  for dtype in ('float32', 'bfloat16', 'int8', 'int4'):
    path = written(trained, tmp_path, dtype)
    file = TensorFile.read(path)
    bytes_.append(file.bytes / trained.bytes)
    back, _ = ravel_pytree(load_exported(path).params)
    error = np.linalg.norm(back - exact)
    errors.append(float(error / np.linalg.norm(exact)))
    kinds = {
      name: tensor.dtype.name
      for name, tensor in file.tensors.items()
      if not name.endswith('scales')
    }
    assert kinds['embed.embedding'] == dtype.replace('int4', 'int8')
    assert kinds['blocks.qkv.coefficients'] == dtype.replace('int4', 'uint8')
    assert kinds['blocks.qkv.bias'] in ('float32', 'bfloat16')
  assert bytes_ == pytest.approx([1, 0.5, 0.28, 0.21], abs=0.03)
  assert errors[0] == 0
  assert errors[1:] == pytest.approx([0.0017, 0.005, 0.08], rel=0.3)


@pytest.mark.parametrize('linear', ['spectral', 'dense'])
@pytest.mark.parametrize('scan', [False, True])
def test_what_was_dropped_takes_a_bit(
  linear: str, tmp_path: Path, *, scan: bool
) -> None:
  trained = small(linear=linear, scan=scan, width=32)
  name = 'coefficients' if linear == 'spectral' else 'kernel'
  bytes_, kept, size = {}, 0, 0
  for dtype in ('float32', 'bfloat16', 'int8', 'int4'):
    path = written(trained, tmp_path, dtype)
    bytes_[dtype] = TensorFile.read(path).bytes
  for block in trained.params.values():
    for layer in block.values() if isinstance(block, dict) else ():
      if isinstance(layer, dict) and name in layer:
        weights = layer[name]
        weights[np.abs(weights) < 0.4] = 0
        kept += np.count_nonzero(weights)
        size += weights.size
  for dtype, bits in (('float32', 32), ('bfloat16', 16), ('int8', 8.5)):
    path = written(trained, tmp_path, dtype)
    back = load_exported(path)
    if dtype == 'float32':
      jax.tree.map(np.testing.assert_array_equal, back.params, trained.params)
    saved = bytes_[dtype] - TensorFile.read(path).bytes
    assert saved * 8 == pytest.approx((size - kept) * bits - size, rel=0.01)
  back, _ = ravel_pytree(
    load_exported(written(trained, tmp_path, 'int4')).params
  )
  exact, _ = ravel_pytree(trained.params)
  assert np.linalg.norm(back - exact) < 0.2 * np.linalg.norm(exact)


def test_places_that_lie_get_one_line(tmp_path: Path) -> None:
  trained = small()
  trained.params['block_0']['qkv']['coefficients'][3:] = 0
  path = written(trained, tmp_path)
  tensors, metadata = load_file(path), TensorFile.read(path).metadata
  places = tensors['block_0.qkv.coefficients.places']
  for changed, expected in (
    (places[:-1], r"coefficients.places': expected uint8"),
    (places.astype(np.int8), r"coefficients.places': expected uint8"),
    (places | np.uint8(255), r"'block_0.qkv.coefficients': expected float"),
  ):
    tensors['block_0.qkv.coefficients.places'] = changed
    metadata['sha256'] = coefficients._digest(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=expected):
      load_exported(path)


def other_metadata(path: Path, **changed: Any) -> None:
  """Writes the file with other metadata, None for none."""
  metadata = TensorFile.read(path).metadata | changed
  texts = {key: text for key, text in metadata.items() if text is not None}
  save_file(load_file(path), path, texts)


def recipe_with(path: Path, **model: object) -> str:
  recipe = json.loads(TensorFile.read(path).metadata['recipe'])
  recipe['model'] |= model
  return json.dumps(recipe)


def linear_with(path: Path, **linear: object) -> str:
  recipe = json.loads(TensorFile.read(path).metadata['recipe'])
  return recipe_with(path, linear=recipe['model']['linear'] | linear)


TOO_LARGE = 'weights cannot be in'


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    ({'spectral_jax': '2'}, "expected version 1, got '2'"),
    ({'sha256': '0'}, 'not what was written'),
    ({'recipe': None}, "'recipe' is missing"),
    ({'recipe': '{'}, "'recipe' is no JSON"),
    ({'recipe': '[' * 100_000}, "'recipe' is no JSON"),
    ({'recipe': '[]'}, 'config: expected a section'),
    ({'tokenizer': '[]'}, 'no tokenizer that is known'),
    ({'layers': '{}'}, 'the layers are not those of the recipe'),
    (
      {'tokenizer': json.dumps({'name': 'byte'})},
      r"'embed.embedding': expected .* \[256, 16\], got float32 \[10, 16\]",
    ),
    (
      lambda p: linear_with(p, selection='zigzag'),
      "selection: .* got 'zigzag'",
    ),
    (lambda p: linear_with(p, keep=0.1), 'coefficients.: expected'),
    (lambda p: linear_with(p, keep=2.0), 'keep: expected a fraction'),
    (lambda p: linear_with(p, selection='random'), 'layers are not those of'),
    (lambda p: linear_with(p, kind='dense'), 'kernel. is missing'),
    (lambda p: recipe_with(p, width=2**13), TOO_LARGE),
    (lambda p: recipe_with(p, context=2**40), TOO_LARGE),
    (lambda p: recipe_with(p, layers=2**40), TOO_LARGE),
    (lambda p: recipe_with(p, layers=1000), r'1,000 layers cannot be in \d+ t'),
    (lambda p: recipe_with(p, layers=1), 'tensors that the model has no use'),
    (lambda p: recipe_with(p, layers=3), "tensor 'block_2.*missing"),
    (lambda p: recipe_with(p, heads=3), 'heads: expected a divisor'),
  ],
)
def test_metadata_that_lies_gets_one_line(
  change: dict[str, Any] | Callable[[Path], str], expected: str, path: Path
) -> None:
  if not isinstance(change, dict):
    change = {'recipe': change(path)}
  other_metadata(path, **change)
  with pytest.raises(UserError, match=expected) as caught:
    load_exported(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_files_that_are_none_get_one_line(path: Path) -> None:
  whole = path.read_bytes()
  header = b'{"a":{"dtype":"F32","shape":[9,9],"data_offsets":[0,4]}}'
  for damaged in (
    b'',
    whole[:-1],
    whole[:100],
    whole + b'0',
    b'PK' + whole,
    struct.pack('<Q', 2**62) + whole[8:],
    struct.pack('<Q', len(header)) + header + b'1234',
  ):
    path.write_bytes(damaged)
    with pytest.raises(
      UserError, match='no whole file of safetensors'
    ) as caught:
      load_exported(path)
    assert '\n' not in str(caught.value)
  flipped = bytearray(whole)
  flipped[-1] ^= 1
  path.write_bytes(flipped)
  with pytest.raises(UserError, match='not what was written'):
    load_exported(path)
  with pytest.raises(UserError, match='cannot be read'):
    load_exported(path / 'nothing')


def test_numbers_that_are_none_get_one_line(tmp_path: Path) -> None:
  trained = small()
  trained.params['positions'][3] = np.nan
  with pytest.raises(UserError, match="'positions': not all are finite"):
    load_exported(written(trained, tmp_path))
