"""What the page's server gives, and to whom."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from spectral_jax.demo.server import Server
from spectral_jax.errors import UserError


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
  with Server({'index.html': b'page', 'runtime/a.wasm': b'\0asm'}, 0) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def test_files_with_their_types(server: Server) -> None:
  assert server.server_address[0] == '127.0.0.1'
  for path, content, kind in (
    ('', b'page', 'text/html; charset=utf-8'),
    ('runtime/a.wasm?x', b'\0asm', 'application/wasm'),
  ):
    with urllib.request.urlopen(server.url + path) as response:
      assert response.read() == content
      assert response.headers['Content-Type'] == kind
      assert "default-src 'self'" in response.headers['Content-Security-Policy']


@pytest.mark.parametrize(
  'path', ['nothing', '../pyproject.toml', '/etc/passwd']
)
def test_nothing_else(server: Server, path: str) -> None:
  with pytest.raises(urllib.error.HTTPError, match='404'):
    urllib.request.urlopen(server.url + path)


def test_a_port_that_is_taken(server: Server) -> None:
  with pytest.raises(UserError, match=f'--port: {server.server_port} cannot'):
    Server({}, server.server_port)
  with pytest.raises(UserError, match='--port: 70000 cannot be had'):
    Server({}, 70000)
