"""A benchmark's arguments: a mistake gets one line, at once, without JAX."""

import re
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

from absl import flags


def fail(line: str) -> NoReturn:
  """Prints one line on standard error and exits with status 2."""
  # That of spectral_jax.training.command would import JAX first: seconds.
  print(f'error: {line}', file=sys.stderr)
  sys.exit(2)


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags as absl does, but answers an error with one line, status 2."""
  try:
    rest: list[str] = flags.FLAGS(argv)
  except flags.Error as error:
    fail(str(error).splitlines()[0])
  return rest


def check_passed_on(
  arguments: Sequence[str], own: Collection[str], instead: str
) -> None:
  """Checks what is passed on to train.py: keys of a recipe, but for `own`.

  Args:
    arguments: those after `--`.
    own: keys that the benchmark sets, as `train.steps`.
    instead: what answers one of them.
  """
  for argument in arguments:
    flag = re.fullmatch(r'--config\.([^=]+)=.*', argument, re.DOTALL)
    if flag is None:
      fail(
        f"unexpected argument {argument!r}; train.py's flags come after --, as "
        '--config.KEY=VALUE.'
      )
    if flag[1] in own:
      fail(f'{argument}: {instead}')
