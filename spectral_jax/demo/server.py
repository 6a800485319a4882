"""Serves a fixed set of files to this machine, and no other."""

import http.server
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from spectral_jax.errors import UserError

_TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.mjs': 'text/javascript; charset=utf-8',
  '.onnx': 'application/octet-stream',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
}
_HEADERS = {
  # Nothing from elsewhere, and no program but ours and WebAssembly.
  'Content-Security-Policy': (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'"
  ),
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}


class Server(http.server.ThreadingHTTPServer):
  """Has the files at 127.0.0.1, by name; '' stands for index.html."""

  daemon_threads = True

  def __init__(self, files: Mapping[str, bytes], port: int) -> None:
    """Listens.

    Args:
      files: what there is, by its path below /.
      port: 0 for any that is free.

    Raises:
      UserError: if the port is taken or not allowed.
    """
    self.files = files
    try:
      super().__init__(('127.0.0.1', port), _Handler)
    except (OSError, OverflowError) as error:
      raise UserError(
        f'--port: {port} cannot be had ({error}); name another, or 0 for any.'
      ) from None

  @property
  def url(self) -> str:
    """Of the page."""
    return f'http://127.0.0.1:{self.server_port}/'


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def do_GET(self) -> None:
    path = self.path.split('?')[0].removeprefix('/') or 'index.html'
    content = self.server.files.get(path)
    if content is None:
      self.send_error(404)
      return
    self.send_response(200)
    self.send_header('Content-Type', _TYPES[PurePath(path).suffix])
    self.send_header('Content-Length', str(len(content)))
    for name, value in _HEADERS.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_: Any) -> None:
    """Says nothing of each request."""
