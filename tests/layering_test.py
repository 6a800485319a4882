"""Imports run downward only: the table of the README's map."""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
# Each folder may import itself, these, and what reads of no folder.
MAY_IMPORT = {
  'core': set(),
  'data': set(),
  'layers': {'core'},
  'convert': {'layers', 'core'},
  'models': {'convert', 'layers', 'core'},
  'training': {'models', 'convert', 'data', 'layers', 'core'},
  'export': {'training', 'convert', 'models', 'data', 'layers', 'core'},
  'demo': {'export', 'training', 'models', 'data', 'layers', 'core'},
  'commands': {
    'demo',
    'export',
    'training',
    'convert',
    'models',
    'data',
    'layers',
    'core',
  },
}
MODULES = sorted((REPOSITORY / 'spectral_jax').rglob('*.py'))
FORBIDDEN = {'core': {'flax', 'optax'}, 'layers': {'optax'}}


def _imported(path: Path) -> list[str]:
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: imports are absolute here'
      assert node.module is not None
      names.append(node.module)
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


def test_every_folder_has_a_floor() -> None:
  folders = {p.parent.name for p in MODULES} - {'spectral_jax'}
  assert folders == MAY_IMPORT.keys()


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_imports_run_downward(path: Path) -> None:
  folder = path.parent.name
  if folder == 'spectral_jax':
    return  # the package's face imports what it shows
  allowed = MAY_IMPORT[folder] | {folder, 'errors', 'untrusted'}
  for name in _imported(path):
    package, *rest = name.split('.')
    assert package not in FORBIDDEN.get(folder, set()), f'{path}: {name}'
    assert package not in ('configs', 'benchmarks', 'train', 'tests')
    if package == 'spectral_jax' and rest:
      assert rest[0] in allowed, f'{path} imports {name}'


@pytest.mark.parametrize(
  'path', sorted((REPOSITORY / 'configs').glob('*.py')), ids=lambda p: p.stem
)
def test_recipes_are_data(path: Path) -> None:
  for name in _imported(path):
    assert name.split('.')[0] in ('configs', 'ml_collections')


@pytest.mark.parametrize(
  'path', sorted((REPOSITORY / 'launch').glob('*.py')), ids=lambda p: p.stem
)
def test_the_launcher_runs_where_nothing_is_installed(path: Path) -> None:
  own = {p.stem for p in path.parent.glob('*.py')}
  for name in _imported(path):
    assert name.split('.')[0] in sys.stdlib_module_names | own | {'absl'}


def test_no_module_is_a_heap() -> None:
  for path in MODULES:
    assert path.stem != 'utils', path
    assert len(path.read_text().splitlines()) <= 300, path
