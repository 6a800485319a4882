"""The TPU compiler itself, where libtpu is installed: CI installs it."""

import re
from pathlib import Path

import pytest

from tests.trainer import run

pytest.importorskip('libtpu', reason='pip install -r requirements-tpu.txt')
SMALL = (
  '--mode=compile',
  '--config.model.layers=1',
  '--config.optimizer.name=adamw',
  '--config.data.tokenizer=byte',
  '--config.mesh.data=1',
  '--config.mesh.fsdp=-1',
)


def _compile(text: Path, *arguments: str) -> tuple[int, dict[str, str], str]:
  result = run(
    'train.py',
    *SMALL,
    '--config.data.corpus=text',
    f'--config.data.path={text}',
    *arguments,
    tmp=text.parent,
  )
  facts = dict(re.findall(r'^(\w[\w -]*?)  +(.*)$', result.stdout, re.M))
  return result.returncode, facts, result.stderr


def test_a_step_of_tpus(text: Path) -> None:
  status, facts, errors = _compile(text, '--topology=v5e:2x2')
  assert (status, errors) == (0, '')
  assert facts['mesh'] == 'data 1, fsdp 4, tensor 1'
  assert facts['memory'] == '16.00 GiB each'
  assert facts['fits'] == 'yes'
  # K numbers of the block's kernels, embedding and positions, and the head,
  # which the compiler sends in bfloat16; little else.
  gathered = (4 * (98_304 + 256 * 128 + 128 * 128) + 2 * 256 * 128) / 2**10
  size, unit = facts['all-gather'].split()
  assert unit == 'KiB'
  assert float(size) == pytest.approx(gathered, rel=0.03)


def test_two_slices_share_the_batch(text: Path) -> None:
  status, facts, _ = _compile(
    text,
    '--topology=v5e:2x2',
    '--slices=2',
    '--config.mesh.data=-1',
    '--config.mesh.fsdp=4',
  )
  assert status == 0
  assert facts['mesh'] == 'data 2, fsdp 4, tensor 1'
  status, _, errors = _compile(text, '--topology=v5e:2x2', '--slices=2')
  assert status == 2
  assert 'config.mesh.data: expected a multiple of the 2 slices' in errors


def test_what_is_no_slice(text: Path) -> None:
  status, _, errors = _compile(text, '--topology=v5e:3x7')
  assert status == 2
  assert re.fullmatch(r'error: --topology: there is no v5e:3x7 .*\n', errors)
