"""The programs of docs/edge.md, where there is nothing of ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported import greedy, trained_model
from tests.trainer import REPOSITORY, run

_REASON = 'wants requirements-export.txt'
for package in ('onnx', 'onnxruntime', 'flatbuffers'):
  pytest.importorskip(package, reason=_REASON)

_PROMPT, _LENGTH = 'the quick', 60  # beyond the context of 32


@pytest.fixture(scope='module')
def expected(finished: tuple[Path, str]) -> str:
  return greedy(trained_model(finished[0]), _PROMPT, _LENGTH)


@pytest.mark.parametrize(
  ('name', 'absent'),
  [('onnx', ('jax', 'jaxlib', 'flax', 'onnx')), ('stablehlo', ('flax',))],
)
def test_text_is_jax_s(
  name: str,
  absent: tuple[str, ...],
  finished: tuple[Path, str],
  expected: str,
  text: Path,
  tmp_path: Path,
) -> None:
  out = tmp_path / 'exported'
  export = ('-m', 'spectral_jax', 'export', finished[0], out)
  result = run(*export, f'--format={name}', tmp=text.parent)
  assert (result.returncode, result.stderr) == (0, '')
  files = out.iterdir() if out.is_dir() else [out]
  size = sum(file.stat().st_size for file in files)
  assert f'written: {out} ({size:,} bytes)' in result.stdout
  document = (REPOSITORY / 'docs' / 'edge.md').read_text()
  programs = re.findall(r'```python\n(.*?)```', document, re.DOTALL)
  (program,) = (p for p in programs if ('onnxruntime' in p) == (name == 'onnx'))
  # To import what is None fails.
  modules = ', '.join(f'{package}=None' for package in absent)
  blocked = f'import sys\nsys.modules.update(spectral_jax=None, {modules})\n'
  printed = subprocess.run(
    [sys.executable, '-c', blocked + program, out, _PROMPT, str(_LENGTH)],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': ''},
    capture_output=True,
    text=True,
    check=True,
  )
  assert printed.stderr == ''
  assert printed.stdout == expected + '\n'
