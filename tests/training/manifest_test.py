"""Whatever is done to a checkpoint's files is noticed, or changes nothing."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from spectral_jax.errors import UserError
from spectral_jax.training import manifest
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.manifest import State
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings
from tests.training.states import train_state

MESH = make_mesh(MeshSettings(1, 1), 8)


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A workdir with the steps 7 and 8."""
  workdir = tmp_path_factory.mktemp('two')
  with Checkpoints(workdir) as checkpoints:
    checkpoints.save(train_state(7), 2.0)
    checkpoints.save(train_state(8, seed=1), 1.0)
  return workdir


def _files(folder: Path) -> list[Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _flip(folder: Path, draw: random.Random) -> str:
  path = draw.choice([p for p in _files(folder) if p.stat().st_size])
  data = bytearray(path.read_bytes())
  at = draw.randrange(8 * len(data))
  data[at // 8] ^= 1 << at % 8
  path.write_bytes(data)
  return f'bit {at} of {path} flipped'


def _truncate(folder: Path, draw: random.Random) -> str:
  path = draw.choice([p for p in _files(folder) if p.stat().st_size])
  size = draw.randrange(path.stat().st_size)
  path.write_bytes(path.read_bytes()[:size])
  return f'{path} cut to {size}'


def _delete(folder: Path, draw: random.Random) -> str:
  path = draw.choice([p for p in folder.rglob('*') if p.name != 'unfinished'])
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  return f'{path} deleted'


def _swap(folder: Path, draw: random.Random) -> str:
  one, other = draw.sample(_files(folder), 2)
  kept = one.read_bytes()
  one.write_bytes(other.read_bytes())
  other.write_bytes(kept)
  return f'{one} and {other} swapped'


def _take_from_the_other(folder: Path, draw: random.Random) -> str:
  other = folder.parent / ('7' if folder.name == '8' else '8')
  path = draw.choice(_files(other))
  target = folder / path.relative_to(other)
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(path, target)
  return f'{target} from the other step'


def _exchange_steps(folder: Path, draw: random.Random) -> str:
  aside = folder.with_name('aside')
  other = folder.parent / ('7' if folder.name == '8' else '8')
  folder.rename(aside)
  other.rename(folder)
  aside.rename(other)
  return 'the steps exchanged'


def _is_right(folder: Path) -> bool:
  """Whether what a step is restored to is what was saved under its number."""
  step = int(folder.name)
  with Checkpoints(folder.parent.parent) as checkpoints:
    restored = checkpoints.restore(step, train_state(0), MESH)
  expected = train_state(step, seed=step - 7)
  same = jax.tree.map(np.array_equal, restored, expected)
  return all(jax.tree.leaves(same))


def test_every_damage_is_noticed_or_harmless(
  two_steps: Path, tmp_path: Path
) -> None:
  ways: list[Callable[[Path, random.Random], str]] = [
    *(_flip, _truncate, _delete, _swap, _take_from_the_other),
    _exchange_steps,
  ]
  found: Counter[State] = Counter()
  for seed in range(240):
    draw = random.Random(seed)
    workdir = shutil.copytree(two_steps, tmp_path / f'{seed}')
    folder = workdir / 'checkpoints' / draw.choice('78')
    done = ways[seed % len(ways)](folder, draw)
    state, problem = manifest.state(folder)
    found[state] += 1
    assert state in (State.DAMAGED, State.GOOD), done
    if state is State.GOOD:
      assert _is_right(folder), done
    else:
      assert problem
      assert '\n' not in problem
    shutil.rmtree(workdir)
  assert found[State.DAMAGED] > 200, found


def test_a_good_step_is_good(two_steps: Path) -> None:
  for step in '78':
    folder = two_steps / 'checkpoints' / step
    assert manifest.state(folder) == (State.GOOD, '')
    assert _is_right(folder)


def test_training_goes_on_from_the_newest_good_step(
  two_steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  workdir = shutil.copytree(two_steps, tmp_path / 'run')
  steps = workdir / 'checkpoints'
  _flip(steps / '8' / 'default' / 'd', random.Random(0))
  (steps / '9').mkdir()
  (steps / '9' / 'unfinished').touch()
  (steps / '9' / 'default.orbax-checkpoint-tmp').mkdir()
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.steps == [7, 8]
    assert checkpoints.recover() == 7
    told = capsys.readouterr().out
    assert told.startswith('checkpoint 8: damaged (default/d/')
    assert told.endswith(f'set aside as {steps}/damaged/8\n')
    assert not (steps / '9').exists()
    assert (checkpoints.steps, checkpoints.best) == ([7], 7)
    # The same once more: what is aside is not written over.
    checkpoints.save(train_state(8, seed=1), 1.0)
    _flip(steps / '8', random.Random(1))
    assert checkpoints.recover() == 7
    _flip(steps / '7', random.Random(2))
    for _ in range(2):  # it does not begin again on its own
      with pytest.raises(UserError, match='none but damaged ones'):
        checkpoints.recover()
  aside = {path.name for path in (steps / 'damaged').iterdir()}
  assert aside == {'7', '8', '8.2'}


def test_a_step_that_is_saved_stays_as_it_is(tmp_path: Path) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(train_state(7), 2.0)
    checkpoints.save(train_state(8), 3.0)
    checkpoints.save(train_state(8, seed=1), 1.0)
    assert (checkpoints.steps, checkpoints.best) == ([7, 8], 7)
    restored = checkpoints.restore(8, train_state(0), MESH)
  jax.tree.map(np.testing.assert_array_equal, restored, train_state(8))


def test_a_kill_while_a_step_is_deleted_leaves_no_damaged_one(
  two_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  workdir = shutil.copytree(two_steps, tmp_path / 'run')
  folder = workdir / 'checkpoints' / '7'
  with monkeypatch.context() as patch:
    patch.setattr(manifest.shutil, 'rmtree', lambda _: None)
    manifest.discard(folder)
  assert manifest.state(folder)[0] is State.UNFINISHED
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.recover() == 8
  assert not folder.exists()
