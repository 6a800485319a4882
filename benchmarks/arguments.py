"""A benchmark's arguments: a mistake gets one line, at once, without JAX."""

import importlib
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

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


def import_peers(module: str) -> Any:
  """A module of this folder that wants PyTorch.

  With no PyTorch, or no CPU to compare on, it prints one line and exits.
  """
  import jax

  if jax.default_backend() != 'cpu':
    fail('--peers: PyTorch is timed on a CPU; set JAX_PLATFORMS=cpu.')
  try:
    return importlib.import_module(f'benchmarks.{module}')
  except ImportError as error:
    fail(
      f'--peers: PyTorch cannot be imported ({error}); pip install -r '
      'requirements-peers.txt'
    )
