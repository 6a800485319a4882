"""The page in a browser: what it writes is what JAX writes."""

import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectral_jax.demo import contents, runtime
from spectral_jax.demo.server import Server
from spectral_jax.errors import UserError
from spectral_jax.layers.linear import LinearConfig
from tests.exported import greedy, random_model, trained_model
from tests.trainer import end, start

_REASON = 'wants requirements-export.txt'
pytest.importorskip('onnx', reason=_REASON)
playwright = pytest.importorskip('playwright.sync_api', reason=_REASON)
_CHROMIUM = shutil.which('chromium')
if _CHROMIUM is None:
  pytest.skip('wants Chromium: apt install chromium', allow_module_level=True)
_QUIET = (  # it would look for its maker's servers
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-sandbox',
)


@pytest.fixture(scope='module')
def folder() -> Path:
  try:
    return runtime.find()
  except UserError as error:
    pytest.skip(str(error))


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
  with playwright.sync_playwright() as driver:
    yield driver.chromium.launch_persistent_context(
      tmp_path_factory.mktemp('profile'),
      executable_path=_CHROMIUM,
      args=_QUIET,
    )


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
  """A page that must have nothing to complain of, nor ask anyone else."""
  page = browser.new_page()
  complaints: list[str] = []
  asked: list[str] = []
  page.on('console', lambda message: complaints.append(message.text))
  page.on('pageerror', lambda error: complaints.append(str(error)))
  page.on('request', lambda request: asked.append(request.url))
  yield page
  assert complaints == []
  assert {url.split('/')[2] for url in asked} == {page.url.split('/')[2]}
  page.close()


def generated(page: Any, prompt: str, length: int) -> str:
  page.get_by_label('Prompt').fill(prompt)
  page.get_by_label('Tokens').fill(str(length))
  page.get_by_label('Temperature').fill('0')
  page.get_by_role('button', name='Generate').click()
  page.get_by_text(f'{length} tokens, done').wait_for()
  return page.locator('#text').text_content()


def test_a_run(
  finished: tuple[Path, str], text: Path, folder: Path, page: Any
) -> None:
  arguments = ('-m', 'spectral_jax', 'demo', finished[0])
  process = start(*arguments, '--port=0', tmp=text.parent)
  try:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert 'Ctrl-C ends it' in line, process.communicate()
    page.goto(line.split()[0])
    written = generated(page, 'the quick', 60)
    assert written == greedy(trained_model(finished[0]), 'the quick', 60)
    assert page.locator('figure canvas').count() == 4
    page.get_by_label('Prompt').fill('brown €')
    page.get_by_role('button', name='Generate').click()
    alert = page.get_by_role('alert')
    assert 'does not know "€"' in alert.text_content()
    page.get_by_label('Prompt').fill('fox')
    page.get_by_label('Tokens').fill('10000')
    page.get_by_role('button', name='Generate').click()
    page.get_by_role('button', name='Stop').click()
    page.get_by_text('tokens, done').wait_for()
    assert len(page.locator('#text').text_content()) < 10_000
  finally:
    process.send_signal(signal.SIGINT)
    result = end(process)
  assert (result.returncode, result.stderr) == (0, '')


@pytest.mark.parametrize('selection', ['random', 'lowpass'])
def test_positions_that_webassembly_computes(
  selection: str, folder: Path, page: Any
) -> None:
  trained = random_model(linear=LinearConfig(selection=selection, keep=0.3))
  with Server(contents.files(trained, folder), 0) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      page.goto(server.url)
      assert generated(page, 'né', 40) == greedy(trained, 'né', 40)
    finally:
      server.shutdown()
      thread.join()
