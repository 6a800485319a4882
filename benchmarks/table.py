"""A table of results: rows that are compared with each other."""

import dataclasses
import math
from collections.abc import Mapping

from benchmarks.rows import Row


@dataclasses.dataclass(frozen=True)
class Reported:
  """What the paper reports for the rows of a table.

  Attributes:
    measure: perplexity, or loss (in nats).
    values: by the name of the row.
  """

  measure: str
  values: Mapping[str, float]

  def loss(self, row: str) -> float:
    """The row's loss in nats."""
    value = self.values[row]
    return math.log(value) if self.measure == 'perplexity' else value


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows that are compared with each other.

  Attributes:
    name: what --tables names.
    title: a line that says what is compared.
    steps: optimizer steps of each run.
    seeds: runs of each row, with the seeds 0, 1, ….
    rows: in the order of the table. A row may be in several tables, and is
      trained once for each number of steps and seed.
    paper: what the paper reports, if anything.
    dense_parameters: what the dense model stores.
    against: what the pictures draw the loss against, parameters or rate.
  """

  name: str
  title: str
  steps: int
  seeds: int
  rows: tuple[Row, ...]
  paper: Reported | None = None
  dense_parameters: int = 826_368
  against: str = 'parameters'
