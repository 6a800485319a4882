"""One set of pins, and a library that needs no more than it says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_requirements_and_project_agree() -> None:
  project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())[
    'project'
  ]
  pins = set(project['dependencies'])
  for extra in project['optional-dependencies'].values():
    pins |= set(extra)
  names = ('requirements.txt', 'requirements-export.txt')
  text = '\n'.join((REPOSITORY / name).read_text() for name in names)
  required = {
    line for line in text.splitlines() if line and not line.startswith('#')
  }
  assert required == pins | {'-r requirements.txt'}


def test_the_tpus_requirements_have_the_same_pin() -> None:
  def lines(name: str) -> list[str]:
    text = (REPOSITORY / name).read_text()
    return [x for x in text.splitlines() if x and not x.startswith('#')]

  (jax,) = (x for x in lines('requirements.txt') if x.startswith('jax>'))
  assert lines('requirements-tpu.txt') == [
    '-r requirements.txt',
    jax.replace('jax', 'jax[tpu]', 1),
  ]


def test_peers_come_on_top_of_the_same_pins() -> None:
  text = (REPOSITORY / 'requirements-peers.txt').read_text()
  lines = [line for line in text.splitlines() if not line.startswith('#')]
  assert lines[0] == '-r requirements.txt'
  assert [line.partition('~=')[0] for line in lines[1:]] == ['torch']


def test_broken_compilers_are_excluded() -> None:
  text = (REPOSITORY / 'requirements.txt').read_text()
  for package in ('jax', 'jaxlib'):
    (line,) = re.findall(rf'^{package}\W.*$', text, re.MULTILINE)
    for broken in ('0.10.2', '0.11.0', '0.11.1'):
      assert f'!={broken}' in line


def test_the_layer_needs_jax_and_flax_alone() -> None:
  # Orbax and what else Flax itself may import are not ours to judge.
  script = (
    'import sys\n'
    'from spectral_jax import SpectralDense\n'
    "heavy = {'grain', 'tensorflow_datasets', 'matplotlib', 'ml_collections',"
    " 'tensorboardX', 'tensorflow', 'absl.flags.argparse_flags'}\n"
    'print(sorted(heavy & sys.modules.keys()))\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', script],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.strip() == '[]'
