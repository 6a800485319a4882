"""Bad input gets one clear line, a non-zero exit, and nothing is lost."""

from pathlib import Path

import pytest

from tests.trainer import assert_refused, small, train


@pytest.mark.parametrize(
  ('argument', 'expected'),
  [
    ('--config.train.stepz=3', r'config\.train\.stepz: .*config\.train\.steps'),
    ('--config.model.linear.keep=0', r'linear\.keep: .*fraction.*0\.0'),
    ('--config.model.linear.keep=half', r"linear\.keep.*number.*'half'"),
    ('--config.train.steps=1e3', r'train\.steps.*whole number'),
    ('--config=nothing.py', r'--config: no such file as nothing\.py'),
    ('--seed=-1', r'seed=-1.*\[0, 4294967295\]'),
    ('--top_k=-1', r'top_k=-1'),
    ('--config=configs/paper.py:full', r'row: .*spectral-50.*full'),
    ('--wrokdir=x', r"'wrokdir'.*workdir"),
    ('train', r"unexpected argument 'train'"),
  ],
)
def test_a_bad_flag_gets_one_line(
  text: Path, argument: str, expected: str
) -> None:
  assert_refused(train(argument, text=text), expected)


@pytest.mark.parametrize(
  ('program', 'expected'),
  [
    ('def get_config(:', 'SyntaxError'),
    ('def get_config():\n  return {}["x"]', "KeyError: 'x'"),
    ('def get_config():\n  return 3', 'to_dict'),
    ('def get_config():\n  raise KeyError', 'KeyError: '),
  ],
)
def test_a_recipe_that_fails_gets_one_line(
  text: Path, tmp_path: Path, program: str, expected: str
) -> None:
  path = tmp_path / 'recipe.py'
  path.write_text(program)
  assert_refused(
    train(f'--config={path}', text=text), rf'recipe\.py.*{expected}'
  )


def test_bad_data_gets_one_line(text: Path, tmp_path: Path) -> None:
  short = tmp_path / 'short.txt'
  short.write_text('too short')
  for path, expected in (
    (tmp_path / 'missing.txt', r'missing\.txt'),
    (short, 'shorter than a context'),
  ):
    workdir = tmp_path / 'run'
    assert_refused(train(*small(path, workdir), text=text), expected)
    assert not workdir.exists()


def test_a_run_that_is_another_gets_one_line(
  finished: tuple[Path, str], text: Path
) -> None:
  workdir, _ = finished
  before = sorted(workdir.rglob('*'))
  assert_refused(
    train(*small(text, workdir, '--config.model.width=64'), text=text),
    r'another config \(config\.model\.width is 32 there, 64 here\)',
  )
  assert_refused(
    train(
      '--mode=sample', f'--workdir={workdir}', '--checkpoint=33', text=text
    ),
    r'--checkpoint: .*latest, best or a step .*120',
  )
  for flag, expected in (
    ('--top_p=0', r'--top_p: expected a number above 0 .*got 0\.0'),
    ('--top_p=nan', r'--top_p: .*got nan'),
    ('--stop=', r'--stop: expected some text'),
    ('--memory=9', r'--memory: expected at least [\d,]+ bytes .*got 9'),
  ):
    assert_refused(
      train('--mode=sample', f'--workdir={workdir}', flag, text=text), expected
    )
  assert_refused(
    train(
      '--mode=sample',
      f'--workdir={workdir}',
      '--prompt=the Ångström',
      text=text,
    ),
    r"'Å'.*column 5",
  )
  assert sorted(workdir.rglob('*')) == before
