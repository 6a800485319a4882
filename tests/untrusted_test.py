"""Files that somebody made on purpose: no way out, no code, no huge arrays."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from flax import serialization

from spectral_jax import untrusted
from spectral_jax.commands import parameter_files
from spectral_jax.convert.project import match_layers, to_dense
from spectral_jax.core.selection import Selection
from spectral_jax.errors import UserError
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training import manifest
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.machine import check_model
from spectral_jax.training.manifest import State
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings
from tests.training.states import train_state


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Parameters that Orbax wrote."""
  path = tmp_path_factory.mktemp('saved') / 'params'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, {'mlp': {'kernel': jnp.ones((8, 12))}})
  return path


def _refusal(read: Callable[[], Any]) -> str:
  with pytest.raises(UserError) as caught:
    read()
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


def _link_file(folder: Path, outside: Path) -> None:
  (folder / '_sharding').unlink()
  (folder / '_sharding').symlink_to(outside)


def _link_folder(folder: Path, outside: Path) -> None:
  (folder / 'd').rename(outside.with_name(f'{folder.name}_d'))
  (folder / 'd').symlink_to(outside.with_name(f'{folder.name}_d'))


def _pipe(folder: Path, outside: Path) -> None:
  del outside
  os.mkfifo(folder / 'd' / '0')


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (_link_file, '_sharding is a link out of its folder'),
    (_link_folder, 'd is a link out of its folder'),
    (_pipe, 'd/0 is neither a file nor a folder'),
  ],
)
def test_no_way_out_of_a_checkpoint(
  change: Callable[[Path, Path], None],
  expected: str,
  saved: Path,
  tmp_path: Path,
) -> None:
  outside = tmp_path / 'outside'
  outside.write_text('{}')
  params = shutil.copytree(saved, tmp_path / 'params')
  change(params, outside)
  assert expected in _refusal(lambda: parameter_files.read(params))
  folder = tmp_path / '7'
  manifest.begin(folder)
  shutil.copytree(saved, folder / 'default')
  manifest.finish(folder, 1.0)
  assert manifest.state(folder) == (State.GOOD, '')
  change(folder / 'default', outside)
  state, problem = manifest.state(folder)
  assert state is State.DAMAGED
  assert problem.startswith(f'default/{expected}')


def test_links_within_a_checkpoint_are_followed(
  saved: Path, tmp_path: Path
) -> None:
  params = shutil.copytree(saved, tmp_path / 'params')
  (params / 'd').rename(params / 'data')
  (params / 'd').symlink_to('data')
  (tmp_path / 'link').symlink_to('params')
  read = parameter_files.read(tmp_path / 'link')
  np.testing.assert_array_equal(read['mlp']['kernel'], np.ones((8, 12)))


def _with_shape(saved: Path, to: Path, shape: list[int]) -> Path:
  """A copy, of which the array says that it is of another shape."""
  shutil.copytree(saved, to)
  store = ts.KvStore.open({'driver': 'ocdbt', 'base': f'file://{to}/'}).result()
  key = next(k for k in store.list().result() if k.endswith(b'kernel/.zarray'))
  facts = json.loads(store.read(key).result().value)
  facts |= {'shape': shape, 'chunks': [min(size, 1024) for size in shape]}
  store.write(key, json.dumps(facts).encode()).result()
  return to


def test_no_array_is_made_that_does_not_fit(
  saved: Path, tmp_path: Path
) -> None:
  huge = _with_shape(saved, tmp_path / 'huge', [10**6, 10**6])
  assert 'would take 3,725 GiB' in _refusal(lambda: parameter_files.read(huge))


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(train_state(7), 1.0)
    folder = tmp_path / 'checkpoints' / '7'
    aside = (folder / 'default').rename(tmp_path / 'aside')
    _with_shape(aside, folder / 'default', [10**6, 10**6])
    (folder / 'manifest.json').unlink()
    manifest.finish(folder, 1.0)
    mesh = make_mesh(MeshSettings(1, 1), 8)
    assert (
      'kernel is (1000000, 1000000), expected (16, 11)); move the damaged step'
    ) in _refusal(lambda: checkpoints.restore(7, train_state(0), mesh))


@pytest.mark.parametrize(
  ('side', 'expected'),
  [(30_000, 'the kernels would take 30 GiB'), (10**9, 'at most 2,147,483,647')],
)
def test_layers_that_do_not_fit(
  side: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(untrusted, 'memory', lambda: 2**34)
  layer = {
    'selection': {'kind': 'lowpass', 'shape': [side, side], 'count': 4},
    'basis': 'dct',
    'shape': [side, side],
    'stack': [],
  }
  (tmp_path / 'out.layers.json').write_text(json.dumps({'mlp': layer}))
  assert expected in _refusal(
    lambda: parameter_files.read_layers(tmp_path / 'out')
  )


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    ({'layers': 10**9}, 'config.model: its parameters would take'),
    ({'context': 10**6}, 'config.model.context, .*: one attention would take'),
  ],
)
def test_models_that_do_not_fit(change: Any, expected: str) -> None:
  check_model(TransformerConfig(), vocabulary=256, sequences=16)
  with pytest.raises(UserError, match=expected):
    check_model(TransformerConfig(**change), vocabulary=256, sequences=16)


@pytest.mark.parametrize('leaf', [None, {}, 3])
def test_a_kernel_that_is_none(leaf: Any, tmp_path: Path) -> None:
  path = tmp_path / 'params'
  tree = {'mlp': {'kernel': leaf, 'coefficients': leaf}}
  path.write_bytes(serialization.msgpack_serialize(tree))
  params = parameter_files.read(path)
  with pytest.raises(ValueError, match=r'matches no layer'):
    match_layers(params, [Rule('mlp')])
  layer = SpectralKernel(Selection.of('lowpass', (4, 4), keep=4))
  with pytest.raises(ValueError, match=r'mlp'):
    to_dense(params, {'mlp': layer})


@pytest.mark.parametrize('kind', ['O', '__import__', 'V8', 'S8'])
def test_a_file_of_objects(kind: str, tmp_path: Path) -> None:
  path = tmp_path / 'params'
  array = msgpack.packb(((1,), kind, b'12345678'))
  path.write_bytes(msgpack.packb({'mlp': msgpack.ExtType(1, array)}))
  assert 'cannot be read' in _refusal(lambda: parameter_files.read(path))


def test_a_kernel_of_too_many_axes() -> None:
  params = {'mlp': {'kernel': jnp.ones((1,) * 30 + (4, 4))}}
  with pytest.raises(ValueError, match='at most 12 axes'):
    match_layers(params, [Rule('mlp', shape=(4, 5))])
