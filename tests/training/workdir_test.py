"""A workdir belongs to one recipe and one text."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from configs import base
from spectral_jax.data.tokenizer import ByteTokenizer
from spectral_jax.errors import UserError
from spectral_jax.training import workdir
from spectral_jax.training.settings import Settings

SETTINGS = Settings.from_mapping(base.get_config().to_dict())
OTHER = dataclasses.replace(SETTINGS, seed=1)


def _claim(directory: Path, settings: Settings, digest: str = 'one') -> None:
  workdir.claim(directory, settings, digest, ByteTokenizer())


def _train(directory: Path) -> None:
  """Leaves what a saved step leaves."""
  (workdir.checkpoints(directory) / '10').mkdir(parents=True)


def test_a_recipe_is_kept_and_read(tmp_path: Path) -> None:
  directory = tmp_path / 'a' / 'b'
  _claim(directory, SETTINGS)
  assert Settings.from_mapping(workdir.read_recipe(directory)) == SETTINGS
  _train(directory)
  _claim(directory, SETTINGS)


def test_another_recipe_is_refused_once_a_step_is_saved(tmp_path: Path) -> None:
  _claim(tmp_path, SETTINGS)
  _claim(tmp_path, OTHER)
  _train(tmp_path)
  with pytest.raises(UserError, match=r'config\.seed is 1 there, 0 here'):
    _claim(tmp_path, SETTINGS)
  assert Settings.from_mapping(workdir.read_recipe(tmp_path)) == OTHER


def test_where_and_how_a_run_is_computed_may_change(tmp_path: Path) -> None:
  _claim(tmp_path, SETTINGS)
  _train(tmp_path)
  moved = SETTINGS.to_mapping()
  moved['mesh']['data'] = 4
  moved['data']['path'] = 'elsewhere.txt'
  moved['data']['evaluation_documents'] = 7
  _claim(tmp_path, Settings.from_mapping(moved))


def test_another_text_is_refused(tmp_path: Path) -> None:
  _claim(tmp_path, SETTINGS)
  _train(tmp_path)
  assert workdir.read_tokenizer(tmp_path) == ByteTokenizer()
  workdir.check_data(tmp_path, 'one')
  with pytest.raises(UserError, match='trained on another text'):
    workdir.check_data(tmp_path, 'other')
  with pytest.raises(UserError, match='trained on another text'):
    _claim(tmp_path, SETTINGS, 'other')


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
  _claim(tmp_path, SETTINGS)
  _train(tmp_path)
  with pytest.raises(UserError, match=r'another tokenizer .*tokenizer\.json'):
    workdir.claim(tmp_path, SETTINGS, 'one', ByteTokenizer(255))


@pytest.mark.parametrize('below', ['file', 'file/run'])
def test_a_workdir_that_is_no_folder_is_named(
  tmp_path: Path, below: str
) -> None:
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=r'^--workdir: .* is, or lies below'):
    _claim(tmp_path / below, SETTINGS)


def test_a_workdir_that_cannot_be_made_is_named() -> None:
  with pytest.raises(UserError, match=r'^--workdir: cannot make /proc/run'):
    _claim(Path('/proc/run'), SETTINGS)


@pytest.mark.parametrize('damage', ['', '{', '[1]'])
def test_a_damaged_recipe_is_named(tmp_path: Path, damage: str) -> None:
  (tmp_path / 'config.json').write_text(damage)
  with pytest.raises(UserError, match=r'config\.json: .*restore it'):
    workdir.read_recipe(tmp_path)


def test_a_folder_that_is_not_writable_is_named(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Root may write anywhere, so the system's answer is played.
  monkeypatch.setattr(os, 'access', lambda *_: False)
  with pytest.raises(UserError, match='is not writable'):
    _claim(tmp_path, SETTINGS)


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
  path = tmp_path / 'file.json'
  workdir.write_text(path, json.dumps({'a': 1}))
  with pytest.raises(UnicodeEncodeError):
    workdir.write_text(path, '\ud800')
  assert json.loads(path.read_text()) == {'a': 1}
