"""Trains the rows of a table and makes the table, again after every run.

  python -m benchmarks.paper_table --workdir=DIR --quick
  python -m benchmarks.paper_table --workdir=DIR --tables=version1,version2

The same command again goes on where it stopped. Flags of train.py for every
row come after `--`, as in `-- --config.data.directory=FOLDER`. It leaves in
DIR: runs/ROW-STEPS/seed-N, results.json, tables.md, results-TABLE-*.png.
"""

import contextlib
import dataclasses
import difflib
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

from benchmarks.arguments import check_passed_on, fail, parse_flags
from benchmarks.rows import Row
from benchmarks.table import Table
from benchmarks.tables import TABLES

if TYPE_CHECKING:
  from benchmarks.runs import Run

_WORKDIR = flags.DEFINE_string('workdir', '', 'Where everything is kept.')
_CHOSEN = flags.DEFINE_list(
  'tables',
  None,
  f'Which, of {", ".join(TABLES)}, or all; by default version1, or all if '
  '--rows is given.',
)
_ROWS = flags.DEFINE_string(
  'rows', '', 'Trains the rows in whose name this regular expression is found.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds', None, 'Runs of each row; by default what the table says.'
)
_STEPS = flags.DEFINE_integer(
  'steps', None, 'Steps of each run; by default what the table says.'
)
_JOBS = flags.DEFINE_integer(
  'jobs', 1, 'Runs at a time, each on its own share of the CPU cores.'
)
_QUICK = flags.DEFINE_bool(
  'quick', False, 'The table quick: 10 min on 2 CPU cores with --jobs=2.'
)
_DATA = flags.DEFINE_string(
  'data', None, 'The file of Tiny Shakespeare; else it is downloaded.'
)
_REPORT_ONLY = flags.DEFINE_bool(
  'report_only', False, 'Trains nothing; by default for all tables.'
)
_DOCS = flags.DEFINE_string(
  'docs',
  None,
  'A Markdown file whose tables, each between <!-- table NAME --> and '
  '<!-- end -->, are brought up to date; the files that it names go beside it. '
  'The runs of the results.json beside it are not trained again.',
)


def _tables() -> list[Table]:
  """The tables that the flags ask for, with their steps and seeds."""
  everything = _REPORT_ONLY.value or _ROWS.value
  names = _CHOSEN.value or (['all'] if everything else ['version1'])
  if _QUICK.value:
    names = ['quick']
  if names == ['all']:
    names = list(TABLES)
  for name in names:
    if name not in TABLES:
      fail(
        f'--tables: no table {name!r}; there are {", ".join(TABLES)}, or all.'
      )
  return [
    dataclasses.replace(
      TABLES[name],
      steps=_STEPS.value or TABLES[name].steps,
      seeds=_SEEDS.value or TABLES[name].seeds,
    )
    for name in names
  ]


def _rows(tables: Sequence[Table]) -> set[Row]:
  """The rows of the tables that --rows asks for."""
  rows = {row for table in tables for row in table.rows}
  try:
    found = {row for row in rows if re.search(_ROWS.value, row.name)}
  except re.error as error:
    fail(f'--rows: {_ROWS.value!r} is no regular expression ({error}).')
  if not found:
    names = sorted(row.name for row in rows)
    near = difflib.get_close_matches(_ROWS.value, names, n=5, cutoff=0.0)
    fail(
      f'--rows: {_ROWS.value!r} is found in none of {len(names)} rows; '
      f'nearest: {", ".join(near)}.'
    )
  return found


def _check_flags(extra: Sequence[str]) -> None:
  """Answers a mistake with one line, before anything slow is imported."""
  if not _WORKDIR.value:
    fail('--workdir: missing; name a folder to keep the runs in.')
  if Path(_WORKDIR.value).is_file():
    fail(f'--workdir: {_WORKDIR.value} is a file; name a folder.')
  for count in (_SEEDS, _STEPS, _JOBS):
    if count.value is not None and count.value < 1:
      fail(f'--{count.name}: expected at least 1, got {count.value}.')
  for file in (_DATA, _DOCS):
    if file.value and not Path(file.value).is_file():
      fail(f'--{file.name}: no such file as {file.value}.')
  check_passed_on(
    extra,
    own=('name', 'seed', 'train.steps'),
    instead='the table sets it; use --seeds and --steps.',
  )


def _plan(
  tables: Sequence[Table], rows: set[Row], extra: Sequence[str], workdir: Path
) -> 'list[Run]':
  """All runs, each once: of each table the first seed of all rows first."""
  from benchmarks.runs import Run

  paths = {
    'tiny_shakespeare': _DATA.value and Path(_DATA.value).absolute(),
    'python_sources': workdir / 'python_sources.txt',
  }
  runs = {}
  for table in tables:
    for seed in range(table.seeds):
      for row in table.rows:
        path = paths.get(row.corpus)
        data = [f'--config.data.path={path}'] if path else []
        run = Run(row, table.steps, seed, (*data, *extra), workdir)
        if row in rows:
          runs[run.name] = run
  return list(runs.values())


def _earlier() -> list[dict[str, Any]]:
  """The runs that are told beside the document of --docs.

  Raises:
    UserError: if the file that tells them is damaged.
  """
  from spectral_jax.errors import UserError
  from spectral_jax.training.workdir import read_json

  path = Path(_DOCS.value or '').parent / 'results.json'
  if not _DOCS.value or not path.exists():
    return []
  runs = read_json(path).get('runs')
  if not isinstance(runs, list):
    raise UserError(f'{path}: expected a list of runs; restore it.')
  return runs


def _report(tables: Sequence[Table], workdir: Path) -> None:
  """Writes results.json, tables.md, and the pictures of the tables."""
  from benchmarks import result_plots, results
  from spectral_jax.training.metrics import read_metrics
  from spectral_jax.training.workdir import write_text

  collected = results.collect(workdir, _earlier())
  write_text(workdir / 'results.json', json.dumps(collected, indent=2) + '\n')
  parts = []
  for table in {**TABLES, **{table.name: table for table in tables}}.values():
    if text := results.markdown(table, collected):
      parts.append(text)
  write_text(workdir / 'tables.md', '\n'.join(parts))
  for table in tables:
    found = results.scores(table, collected)
    if not found:
      continue
    path = f'{workdir}/results-{table.name}'
    result_plots.draw_sizes(table, found, Path(f'{path}-sizes.png'))
    logs: dict[str, list[dict[str, float]]] = {}
    for name, score in found.items():
      of_row = workdir / 'runs' / f'{name}-{table.steps}'
      folders = [of_row / f'seed-{seed}' for seed in score.seeds]
      # Runs that are only told have left no log.
      for folder in filter(Path.exists, folders):
        logs.setdefault(name, read_metrics(folder))
    if logs:
      drawn = {name: found[name] for name in logs}
      result_plots.draw_steps(table, drawn, logs, Path(f'{path}-steps.png'))
    if any(score.stable_rank is not None for score in found.values()):
      result_plots.draw_ranks(table, found, Path(f'{path}-ranks.png'))


def _write_docs(workdir: Path, docs: Path) -> None:
  """Brings up to date a document's tables and the files that it names."""
  from benchmarks import results
  from spectral_jax.training.workdir import write_text

  collected = results.collect(workdir, _earlier())
  tables = {
    name: results.markdown(table, collected) for name, table in TABLES.items()
  }
  text = results.replace_tables(docs.read_text(), tables)
  write_text(docs, text)
  for path in (workdir / 'results.json', *workdir.glob('results-*.png')):
    if path.name in text:
      shutil.copyfile(path, docs.parent / path.name)


def _train(tables: Sequence[Table], runs: 'Sequence[Run]') -> bool:
  """Trains what is not finished yet; returns whether no run failed."""
  from benchmarks.results import is_told
  from benchmarks.runs import train
  from spectral_jax.training.console import clock
  from spectral_jax.training.workdir import read_json

  workdir = Path(_WORKDIR.value).absolute()
  earlier = _earlier()
  waiting = [
    run for run in runs if not (run.finished() or is_told(run, earlier))
  ]
  done = len(runs) - len(waiting)
  failed = 0
  began = time.monotonic()
  print(f'{done} of {len(runs)} runs are finished; the others go to {workdir}')
  # Closed on Ctrl-C and on any other exception: no run outlives this command.
  with contextlib.closing(train(waiting, _JOBS.value)) as events:
    for event in events:
      line = f'[{clock(time.monotonic() - began)}] {event.run.name}: '
      if event.kind == 'started':
        line += 'started'
      elif event.kind == 'failed':
        failed += 1
        line += f'failed after {clock(event.seconds)}: {event.error}'
      else:
        done += 1
        loss = read_json(event.run.folder / 'summary.json')['validation_loss']
        line += (
          f'finished in {clock(event.seconds)}, validation loss {loss:.4f} '
          f'({done} of {len(runs)})'
        )
      print(line, flush=True)
      if event.kind == 'finished':
        _report(tables, workdir)
  if failed:
    print(f'{failed} of {len(runs)} runs failed', file=sys.stderr)
  return not failed


def main(argv: Sequence[str]) -> None:
  """Does what the flags say."""
  extra = argv[1:]
  _check_flags(extra)
  tables = _tables()
  rows = _rows(tables)
  # Imported here, so that a mistyped flag is answered at once.
  from spectral_jax.errors import UserError
  from spectral_jax.training.reading import unknown_key
  from spectral_jax.training.settings import keys

  workdir = Path(_WORKDIR.value).absolute()
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    for flag in extra:
      if (key := flag[2:].split('=')[0]) not in keys():
        raise UserError(unknown_key(key, keys()))
    if _REPORT_ONLY.value and not (workdir / 'runs').is_dir():
      raise UserError(f'--workdir: no runs in {workdir}; train some first.')
    workdir.mkdir(parents=True, exist_ok=True)
    trained = True
    if not _REPORT_ONLY.value:
      runs = _plan(tables, rows, extra, workdir)
      if any(run.row.corpus == 'python_sources' for run in runs):
        from benchmarks import python_sources

        python_sources.build(workdir / 'python_sources.txt')
      trained = _train(tables, runs)
    _report(tables, workdir)
    if _DOCS.value:
      _write_docs(workdir, Path(_DOCS.value))
    print(f'tables: {workdir / "tables.md"}')
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    print('\ninterrupted; the same command goes on from the last checkpoints')
    sys.exit(130)
  sys.exit(0 if trained else 1)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
