"""What the runs came to: results as plain data, and tables in Markdown."""

import dataclasses
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.runs import Run, recipe
from benchmarks.table import Table
from benchmarks.tables import ROWS, TABLES
from spectral_jax.errors import UserError
from spectral_jax.training.workdir import (
  FREE,
  flatten,
  read_json,
  read_recipe,
)

# Keys of a recipe that a result tells otherwise, or that do not matter to it.
_TOLD = ('config.name', 'config.seed', 'config.train.steps', *FREE)
_FACTS = (
  'validation_loss',
  'parameters',
  'parameters_ratio',
  'position_bytes',
  'stable_rank',
  'train_seconds',
  'date',
  'jax',
  'python',
  'device',
)
_NONE = '–'


@dataclasses.dataclass(frozen=True)
class Scores:
  """A row's figures over its seeds.

  Attributes:
    row: which.
    losses: validation loss by seed, in nats per token.
    parameters: stored numbers.
    position_bytes: stored beside them: which positions were chosen.
    stable_rank: mean; None where it was not measured.
  """

  row: Row
  losses: Mapping[int, float]
  parameters: int
  position_bytes: int
  stable_rank: float | None

  @property
  def seeds(self) -> tuple[int, ...]:
    """In order."""
    return tuple(sorted(self.losses))

  @property
  def loss(self) -> float:
    """The mean over the seeds."""
    return statistics.fmean(self.losses.values())

  @property
  def spread(self) -> float | None:
    """Its sample standard deviation; None for a single seed."""
    return mean_and_spread(tuple(self.losses.values()))[1]

  def over(self, other: 'Scores') -> list[float]:
    """How much more each loss is than the other's of the same seed.

    Runs of one seed see the same text in the same order. Of rows that share no
    seed the means are compared.
    """
    shared = [seed for seed in self.seeds if seed in other.losses]
    if not shared:
      return [self.loss - other.loss]
    return [self.losses[seed] - other.losses[seed] for seed in shared]

  def storage_over(self, parameters: int) -> float:
    """What is stored, positions too, over so many numbers in float32."""
    return (self.parameters + self.position_bytes / 4) / parameters

  @property
  def perplexity(self) -> float:
    """That of the mean loss."""
    return math.exp(self.loss)


def collect(
  workdir: Path, earlier: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
  """The finished runs in a benchmark's workdir, as JSON can hold them.

  With them stand `earlier` runs, whose folders need not be there any more; one
  that was trained again is told as it went in the workdir.

  Each has the `row`, `seed`, `steps` and `tokens` it was trained with, the
  `flags` that make its recipe of configs/paper.py:dense, and, where the run
  tells them (else None), its loss, parameters, stable rank, time and machine.

  Raises:
    UserError: for a file that is damaged.
  """
  folders = [path.parent for path in workdir.glob('runs/*/seed-*/summary.json')]
  runs = {
    _key(run): dict(run)
    for run in (*earlier, *(_result(folder) for folder in folders))
  }
  return {'runs': [runs[key] for key in sorted(runs)]}


def _key(run: Mapping[str, Any]) -> tuple[str, int, int]:
  return run['row'], run['steps'], run['seed']


def is_told(run: Run, earlier: Iterable[Mapping[str, Any]]) -> bool:
  """Whether a run, of this very recipe, is among `earlier` ones."""
  for told in earlier:
    if _key(told) == (run.row.name, run.steps, run.seed):
      wanted = recipe(run.row.base, (*run.row.flags, *run.flags))
      return not _differing(recipe('dense', told['flags']), wanted)
  return False


def _result(folder: Path) -> dict[str, Any]:
  summary = read_json(folder / 'summary.json')
  flat = flatten(read_recipe(folder))
  steps = summary.get('steps', 0)
  tokens = flat['config.train.batch_size'] * flat['config.model.context']
  return {
    'row': folder.parent.name.rpartition('-')[0],
    'seed': flat['config.seed'],
    'steps': steps,
    'tokens': steps * tokens,
    'flags': _differing(flat, recipe('dense', ())),
    **{fact: summary.get(fact) for fact in _FACTS},
  }


def _differing(there: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
  """The flags that make the recipe `there` of the recipe `base`."""
  return [
    f'--{key}={value}'
    for key, value in there.items()
    if base.get(key) != value and not key.startswith(_TOLD)
  ]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
  """The mean and the sample standard deviation, which one value has not."""
  spread = statistics.stdev(values) if len(values) > 1 else None
  return statistics.fmean(values), spread


def runs_of(table: Table, results: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The runs of a table's rows, with the table's steps and seeds."""
  names = {row.name for row in table.rows}
  return [
    run
    for run in results['runs']
    if run['row'] in names
    and run['steps'] == table.steps
    and run['seed'] < table.seeds
  ]


def scores(table: Table, results: Mapping[str, Any]) -> dict[str, Scores]:
  """The figures of the rows that were run, by name, in the table's order."""
  found = {}
  for row in table.rows:
    runs = [run for run in runs_of(table, results) if run['row'] == row.name]
    if not runs:
      continue
    ranks = [run['stable_rank'] for run in runs if run['stable_rank']]
    found[row.name] = Scores(
      row,
      {run['seed']: run['validation_loss'] for run in runs},
      runs[0]['parameters'],
      runs[0].get('position_bytes') or 0,
      statistics.fmean(ranks) if ranks else None,
    )
  return found


def best_dense(found: Mapping[str, Scores]) -> Scores | None:
  """The dense row with the lowest loss, which the others are compared with.

  The lowest over the seeds that all dense rows have, where they share any.
  """
  dense = [score for score in found.values() if score.row.family == 'dense']
  seeds = [set(score.losses) for score in dense]
  shared = set.intersection(*seeds) if seeds else set()

  def loss(score: Scores) -> float:
    own = [score.losses[seed] for seed in shared]
    return statistics.fmean(own) if own else score.loss

  return min(dense, key=loss, default=None)


def markdown(table: Table, results: Mapping[str, Any]) -> str:
  """Its title, rows, and how they were made; empty if no row was run."""
  found = scores(table, results)
  if not found:
    return ''
  columns = [
    'linear layers',
    'learning rate',
    'stored parameters',
    'of dense',
    'seeds',
    'validation loss',
    'perplexity',
    'to dense',
    'stable rank',
  ]
  if table.paper:
    columns.append(f"paper's {table.paper.measure}")
  lines = [columns, ['---'] * len(columns)]
  for name, score in found.items():
    row = score.row
    cells = [row.label, f'{row.rate:g}', *_cells(score, table, found)]
    if table.paper:
      value = table.paper.values.get(name)
      digits = 1 if table.paper.measure == 'perplexity' else 3
      cells.append(_NONE if value is None else f'{value:.{digits}f}')
    lines.append(cells)
  rendered = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
  return (
    f'**{table.title}**\n\n{rendered}\n{_how_made(table, results, found)}\n'
    f'{_missing(table, found)}'
  )


def _missing(table: Table, found: Mapping[str, Scores]) -> str:
  """A paragraph that names the rows of the table that were not run."""
  labels = [row.label for row in table.rows]
  missing = [
    row.label
    if labels.count(row.label) == 1
    else f'{row.label} at {row.rate:g}'
    for row in table.rows
    if row.name not in found
  ]
  return f'\nNot run: {"; ".join(missing)}.\n' if missing else ''


def _cells(
  score: Scores, table: Table, found: Mapping[str, Scores]
) -> Sequence[str]:
  """What was measured of a row, from `stored parameters` on."""
  dense = best_dense(found)
  rank = score.stable_rank
  more = _NONE
  if dense not in (None, score):
    mean, spread = mean_and_spread(score.over(dense))
    more = f'{mean:+.3f}{_plus_minus(spread)}'
  return (
    f'{score.parameters:,}',
    f'{score.storage_over(table.dense_parameters):.1%}',
    f'{len(score.seeds)}',
    f'{score.loss:.3f}{_plus_minus(score.spread)}',
    f'{score.perplexity:.2f}',
    more,
    _NONE if rank is None else f'{rank:.1f}',
  )


def _plus_minus(spread: float | None) -> str:
  return '' if spread is None else f' ± {spread:.3f}'


def _how_made(
  table: Table, results: Mapping[str, Any], found: Mapping[str, Scores]
) -> str:
  """One line: how long, on what, when, and the command that does it again."""
  runs = runs_of(table, results)
  tokens = _distinct(f'{run["tokens"]:,}' for run in runs)
  seeds = sorted({run['seed'] for run in runs})
  told = [
    f'{table.steps:,} steps ({tokens} tokens)',
    f'seed {seeds[0]}' if len(seeds) == 1 else f'seeds {_distinct(seeds)}',
  ]
  if len(seeds) > 1:
    told.append('± is the sample standard deviation over them')
  for key, name in (('device', ''), ('jax', 'jax '), ('python', 'Python ')):
    values = _distinct(run[key] for run in runs if run[key])
    told += [name + values] if values else []
  dates = sorted({run['date'] for run in runs if run['date']})
  told += [' to '.join(dict.fromkeys((dates[0], dates[-1])))] if dates else []
  return f'{"; ".join(told)}; by `{_command(table, runs, found)}`'


def _distinct(values: Iterable[object]) -> str:
  return ', '.join(str(value) for value in sorted(set(values), key=str))


def _command(
  table: Table, runs: Sequence[Mapping[str, Any]], found: Mapping[str, Scores]
) -> str:
  """The command that makes the table again; DIR is anyone's."""
  words = ['python -m benchmarks.paper_table --workdir=DIR']
  words.append(f'--tables={table.name}')
  if table.steps != TABLES[table.name].steps:
    words.append(f'--steps={table.steps}')
  seeds = max(len(score.seeds) for score in found.values())
  if seeds != TABLES[table.name].seeds:
    words.append(f'--seeds={seeds}')
  flags = sorted({flag for run in runs for flag in _flags_over_row(run)})
  if flags:
    words.append('-- ' + shlex.join(flags))
  return ' '.join(words)


def _flags_over_row(run: Mapping[str, Any]) -> list[str]:
  """The flags of a run that its row does not have."""
  row = ROWS[run['row']]
  return _differing(recipe('dense', run['flags']), recipe(row.base, row.flags))


def replace_tables(text: str, tables: Mapping[str, str]) -> str:
  """Puts each table between `<!-- table NAME -->` and `<!-- end -->`.

  Raises:
    UserError: for a NAME that is not among the tables, or one without its end.
  """
  opened = re.findall(r'<!-- table (.*?) -->', text)
  unknown = [name for name in opened if name not in tables]
  if unknown:
    raise UserError(
      f'--docs: no table {unknown[0]!r}; there are {", ".join(tables)}.'
    )
  blocks = r'(<!-- table (\w+) -->\n)((?:(?!<!-- table ).)*?)(<!-- end -->)'
  text, count = re.subn(
    blocks,
    lambda match: match[1] + _block(tables[match[2]]) + match[4],
    text,
    flags=re.DOTALL,
  )
  if count != len(opened):
    raise UserError('--docs: a table has no <!-- end --> after it; add one.')
  return text


def _block(table: str) -> str:
  return f'\n{table}\n' if table else ''
