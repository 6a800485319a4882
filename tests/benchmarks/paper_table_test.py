"""python -m benchmarks.paper_table as a user types it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.runs import Run
from benchmarks.tables import ROWS, TABLES
from configs import paper
from spectral_jax.errors import UserError
from tests.trainer import SMALL, assert_refused, run

COMMAND = ('-m', 'benchmarks.paper_table')


@pytest.mark.usefixtures('finished')  # whose programs are those of the row
def test_rows_are_trained_once_and_told(text: Path, tmp_path: Path) -> None:
  docs = tmp_path / 'docs' / 'results.md'
  docs.parent.mkdir()
  named = 'results.json results-muon-sizes.png results-muon-steps.png'
  docs.write_text(f'<!-- table muon -->\n<!-- end -->\n{named}\n')
  workdir = tmp_path / 'table'

  # The default recipe's own row.
  row = next(r.name for r in TABLES['muon'].rows if r.label == 'strided nm/2')

  def paper_table(rows: str) -> subprocess.CompletedProcess[str]:
    return run(
      *COMMAND,
      f'--workdir={workdir}',
      '--tables=muon',
      f'--rows={rows}',
      '--steps=120',
      '--seeds=1',
      '--jobs=2',
      f'--docs={docs}',
      '--',
      *(flag for flag in SMALL if not flag.startswith('--config.train.steps')),
      f'--config.data.path={text}',
      tmp=text.parent,
    )

  # A kernel of 32×32 has no rank of 48.
  first = paper_table(f'{row}|low-rank-48')
  assert first.returncode == 1, first.stdout + first.stderr
  assert '-120/seed-0: failed' in first.stdout
  assert 'error: config.model.linear.rank: expected at most 32' in first.stdout
  assert first.stderr == '1 of 2 runs failed\n'
  folder = workdir / 'runs' / f'{row}-120' / 'seed-0'
  assert (folder / 'output.log').read_text().startswith('$ ')
  there = json.loads((workdir / 'results.json').read_text())
  assert there == json.loads((docs.parent / 'results.json').read_text())
  (told,) = there['runs']
  summary = json.loads((folder / 'summary.json').read_text())
  assert told['row'] == row
  assert told['validation_loss'] == summary['validation_loss']
  table = (workdir / 'tables.md').read_text()
  assert 'Not run: ' in table
  assert f'| {told["parameters"]:,} |' in table
  assert '--tables=muon --steps=120 -- --config' in table
  for name in ('sizes', 'steps'):
    picture = docs.parent / f'results-muon-{name}.png'
    assert picture.stat().st_size > 0

  # What the document tells is not trained again where it is not any more.
  shutil.rmtree(workdir / 'runs')
  again = paper_table(row)
  assert again.returncode == 0, again.stderr
  assert again.stdout.startswith('1 of 1 runs are finished')
  assert 'started' not in again.stdout
  assert (workdir / 'tables.md').read_text() == table


def test_rows_of_other_names_are_of_other_recipes() -> None:
  recipes = {(row.base, row.flags, row.corpus) for row in ROWS.values()}
  assert len(recipes) == len(ROWS)


def test_a_finished_run_is_of_the_row_s_recipe(tmp_path: Path) -> None:
  run = Run(ROWS['random-nm4'], 500, 0, (), tmp_path)
  assert not run.finished()
  run.folder.mkdir(parents=True)
  config = paper.get_config('spectral-50')
  config.name, config.train.steps = 'random-nm4', 500
  config.model.linear.update(selection='random', keep=0.25)
  config.data.path = 'elsewhere.txt'

  def write(steps: int) -> None:
    (run.folder / 'config.json').write_text(json.dumps(config.to_dict()))
    (run.folder / 'summary.json').write_text(json.dumps({'steps': steps}))

  write(steps=500)
  assert run.finished()
  write(steps=400)
  assert not run.finished()
  config.model.linear.keep = 0.5
  write(steps=500)
  expected = (
    r'row random-nm4: .*config\.model\.linear\.keep is 0\.5 there, 0\.25'
  )
  with pytest.raises(UserError, match=expected):
    run.finished()
  (run.folder / 'config.json').write_text('{')
  with pytest.raises(UserError, match=r'config\.json: cannot be read'):
    run.finished()


def test_all_tables_can_be_asked_for(tmp_path: Path) -> None:
  command = (*COMMAND, f'--workdir={tmp_path}')
  result = run(*command, '--tables=all', '--report_only', tmp=tmp_path)
  assert_refused(result, f'--workdir: no runs in {tmp_path}; train some first')
  # A row of no table that is there by default; a flag that is no flag.
  result = run(
    *command, '--rows=^band-nm20$', '--', '--config.no=1', tmp=tmp_path
  )
  assert_refused(result, r'config\.no: no such key')


@pytest.mark.parametrize(
  ('argument', 'expected'),
  [
    ('--tables=version3', r"--tables: no table 'version3'; .*version2"),
    ('--rows=sparse', r"'sparse' is found in none of \d+ rows; nearest: \w"),
    ('--rows=(', r"--rows: '\(' is no regular expression"),
    ('--seeds=0', r'--seeds: expected at least 1, got 0'),
    ('--steps=1e3', r'--steps=1e3'),
    ('--docs=nothing.md', r'--docs: no such file as nothing\.md'),
    ('version1', r"unexpected argument 'version1'.*after --"),
    ('--wrokdir=x', r"'wrokdir'.*workdir"),
  ],
)
def test_a_bad_flag_gets_one_line(
  tmp_path: Path, argument: str, expected: str
) -> None:
  workdir = tmp_path / 'table'
  result = run(*COMMAND, f'--workdir={workdir}', argument, tmp=tmp_path)
  assert_refused(result, expected)
  assert not workdir.exists()
