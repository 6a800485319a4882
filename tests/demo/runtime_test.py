"""Where the browser's onnxruntime comes from."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from spectral_jax.demo import runtime
from spectral_jax.errors import UserError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """A package like npm's, at a place of its own, and an empty cache."""
  path = tmp_path / 'package.tgz'
  with tarfile.open(path, 'w:gz') as archive:
    for name in (*runtime.FILES, '../outside'):
      member = tarfile.TarInfo(f'package/dist/{name}')
      member.size = len(name)
      archive.addfile(member, io.BytesIO(name.encode()))
  digest = hashlib.sha512(path.read_bytes()).digest()
  integrity = base64.b64encode(digest).decode()
  monkeypatch.setattr(runtime, 'URL', path.as_uri())
  monkeypatch.setattr(runtime, 'INTEGRITY', integrity)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return path


def test_downloaded_once(package: Path, tmp_path: Path) -> None:
  folder = runtime.find()
  assert folder.is_relative_to(tmp_path / 'cache')
  assert {file.name for file in folder.iterdir()} == set(runtime.FILES)
  assert (folder / runtime.FILES[2]).read_text() == runtime.FILES[2]
  assert list(folder.parent.iterdir()) == [folder]
  package.unlink()
  assert runtime.find() == folder


def test_another_package_is_not_unpacked(package: Path, tmp_path: Path) -> None:
  package.write_bytes(package.read_bytes() + b' ')
  with pytest.raises(UserError, match='another SHA-512'):
    runtime.find()
  assert not (tmp_path / 'cache').exists()


def test_no_network_and_no_such_folder(package: Path, tmp_path: Path) -> None:
  package.unlink()
  with pytest.raises(UserError, match=r'cannot download .*--runtime=FOLDER'):
    runtime.find()
  with pytest.raises(UserError, match=f'--runtime: no {runtime.FILES[0]} in'):
    runtime.find(tmp_path)
