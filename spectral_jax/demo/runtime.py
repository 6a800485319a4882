"""onnxruntime for browsers: three files of a package of npm's."""

import base64
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from spectral_jax.errors import UserError

VERSION = '1.30.0'
FILES = (
  'ort.wasm.min.mjs',
  'ort-wasm-simd-threaded.mjs',
  'ort-wasm-simd-threaded.wasm',
)
URL = (
  f'https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz'
)
# SHA-512 of the package, as npm's lock files have it.
INTEGRITY = (
  'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1Sig'
  'qR4CXAfKYQ=='
)
_SECONDS = 60  # without a byte, before the network is given up


def default_folder() -> Path:
  """Where the files are kept once they were downloaded."""
  cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  return Path(cache) / 'spectral_jax' / f'onnxruntime-web-{VERSION}'


def find(folder: Path | None = None) -> Path:
  """The folder of the files; the default one is filled if it is not there.

  Raises:
    UserError: for a folder that lacks a file, or a package that cannot be
      downloaded or is another than it should be.
  """
  if folder is None:
    folder = default_folder()
    if not folder.is_dir():
      _extract(_download(), folder)
  for name in FILES:
    if not (folder / name).is_file():
      raise UserError(
        f'--runtime: no {name} in {folder}; give the folder dist of the npm '
        f'package onnxruntime-web {VERSION}, or remove the folder.'
      )
  return folder


def _download() -> bytes:
  print(f'downloading onnxruntime-web {VERSION} (33 MB, once)', flush=True)
  try:
    with urllib.request.urlopen(URL, timeout=_SECONDS) as response:
      package: bytes = response.read()
  except OSError as error:
    raise UserError(
      f'onnxruntime-web: cannot download {URL} ({error}); fetch it elsewhere, '
      'and give its folder package/dist with --runtime=FOLDER.'
    ) from None
  digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
  if digest != INTEGRITY:
    raise UserError(
      f'onnxruntime-web: {URL} has another SHA-512 than that of {VERSION}; try '
      'again, or give the files with --runtime=FOLDER.'
    )
  return package


def _extract(package: bytes, folder: Path) -> None:
  """Writes the files, all or none."""
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
      with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for name in FILES:
          content = archive.extractfile(f'package/dist/{name}')
          assert content is not None, name  # the SHA-512 is right
          (partial / name).write_bytes(content.read())
      partial.replace(folder)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  except OSError as error:
    raise UserError(
      f'--runtime: cannot write {folder} ({error.strerror}); set '
      'XDG_CACHE_HOME to a folder that can be written.'
    ) from None
