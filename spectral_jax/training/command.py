"""The command line's flags, and one clear line for each mistake in them."""

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from spectral_jax.errors import UserError
from spectral_jax.training import sampling_flags
from spectral_jax.training.joining import Group
from spectral_jax.training.reading import unknown_key
from spectral_jax.training.settings import Settings, keys
from spectral_jax.training.workdir import check_recipe, flatten, read_recipe

_EXPECTED = {
  'invalid literal for int() with base 10': 'expected a whole number',
  'could not convert string to float': 'expected a number',
}

# What processes must be told alike, beside the recipe; and what each may be
# told its own of.
_ALIKE = (
  'mode',
  'checkpoint',
  'prompt',
  'length',
  'temperature',
  'top_k',
  'top_p',
  'seed',
  'stop',
  'samples',
  'weights',
  'memory',
  'process_count',
)
_OWN = ('config.data.path', 'config.data.directory')


def _check_keys(argv: Sequence[str]) -> None:
  """Answers a mistyped --config.KEY, which ml_collections cannot."""
  known = keys()
  sections = {key.rsplit('.', 1)[0] for key in known}
  for argument in argv:
    match = re.match(r'--?(config\.[^=]*)', argument)
    if match and match[1] not in known.keys() | sections:
      fail(unknown_key(match[1], known))


def define_config_flag(default: Path | None) -> None:
  """Defines --config, and with it --config.KEY; `default` is a recipe file."""
  # Overrides are looked up in the recipe as soon as the flag is defined.
  _check_keys(sys.argv[1:])
  described = '\n'.join(f'  --{key}: {line}' for key, line in keys().items())
  config_flags.DEFINE_config_file(
    'config',
    default and str(default),
    'The recipe, a Python file with get_config(), as FILE or FILE:ROW. '
    'Override any of its keys, after --config:\n' + described,
  )


def define_flags(default_config: Path) -> None:
  """Defines all flags of train.py; `default_config` is a recipe file."""
  define_config_flag(default_config)
  flags.DEFINE_string(
    'workdir', None, 'Where the run is kept; by default runs/NAME.'
  )
  flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'eval', 'sample', 'compile'],
    'train: trains, or goes on training, the run in --workdir. eval: prints '
    'the scores of a checkpoint. sample: generates text from a checkpoint. '
    'eval and sample take the recipe from --workdir. compile: compiles the '
    'train step for the TPUs of --topology, and prints what it costs them.',
  )
  flags.DEFINE_string(
    'topology',
    'v5e:2x4',
    'For compile: a slice of TPUs, as v4:2x2x1, v5e:16x16 or v5p:4x4x4; wants '
    'requirements-tpu.txt, but no TPU.',
  )
  flags.DEFINE_integer(
    'slices', 1, 'For compile: how many such slices.', lower_bound=1
  )
  flags.DEFINE_bool(
    'distributed',
    None,
    'Joins other processes, as Cloud TPU, SLURM or Open MPI tell; by default '
    'if SLURM or Open MPI has started several.',
  )
  flags.DEFINE_string(
    'coordinator',
    None,
    'To join other processes by hand: HOST:PORT, where process 0 listens.',
  )
  flags.DEFINE_integer(
    'process_count', None, 'By hand: how many there are.', lower_bound=1
  )
  flags.DEFINE_integer(
    'process_id', None, 'By hand: which of them this is, from 0.', lower_bound=0
  )
  flags.DEFINE_integer(
    'join_timeout', 120, 'Seconds to wait for the others.', lower_bound=1
  )
  flags.DEFINE_string(
    'checkpoint', 'latest', 'For eval and sample: latest, best, or a step.'
  )
  sampling_flags.define()
  flags.adopt_module_key_flags(sampling_flags)


def _one_line(error: Exception) -> str:
  """The line of a flag error that says what was wrong."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  raised = [line for line in lines if re.match(r'\w+(Error|Exception): ', line)]
  line = raised[-1].split(': ', 1)[1] if raised else ''.join(lines[:1])
  for told, expected in _EXPECTED.items():
    line = line.replace(told, expected)
  return line


def _given_config(argv: Sequence[str]) -> str | None:
  """The last FILE or FILE:ROW given by --config=… or --config …, if any."""
  given = None
  for argument, following in itertools.zip_longest(argv, argv[1:]):
    if match := re.fullmatch(r'--?config(?:=(.*))?', argument):
      given = following if match[1] is None else match[1]
  return given


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags as absl does, but answers an error with one line, status 2."""
  given = _given_config(argv)
  if given and not Path(given.split(':')[0]).is_file():
    fail(f'--config: no such file as {given}.')
  try:
    rest: list[str] = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS.config is not None:
      flags.FLAGS.config.to_dict()  # raises where it could not be read
  except flags.Error as error:
    fail(_one_line(error))
  except Exception as error:  # a recipe is a program, and may raise anything
    fail(
      f'--config: {given} is no recipe ({type(error).__name__}: '
      f'{_one_line(error)}).'
    )
  return rest


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the flags of train.py, likewise."""
  rest = parse(argv)
  try:
    group()
  except UserError as error:
    fail(str(error))
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}; flags begin with --.')
  return rest


def fail(line: str) -> NoReturn:
  """Prints one line on standard error and exits with status 2."""
  print(f'error: {line}', file=sys.stderr)
  sys.exit(2)


def run_settings() -> tuple[Settings, Path]:
  """The recipe and the workdir that the parsed flags ask for.

  To evaluate or sample, the recipe is that of the run in the workdir; what is
  given on the command line must agree with it, but for where and on how many
  devices it is computed.

  Raises:
    UserError: for a recipe that is not valid, or not that of the run.
  """
  values = flags.FLAGS
  recipe = values.config.to_dict()
  workdir = Path(values.workdir or f'runs/{recipe.get("name")}').expanduser()
  if values.mode in ('eval', 'sample'):
    given = recipe
    recipe = read_recipe(workdir)
    Settings.from_mapping(recipe)  # it may have been edited
    if values['config'].present:
      check_recipe(workdir, Settings.from_mapping(given))
    for name in keys():
      if name in values and values[name].present:
        _override(recipe, name, values[name].value)
  settings = Settings.from_mapping(recipe)
  if values.mode in ('eval', 'sample'):
    check_recipe(workdir, settings)
  return settings, workdir


def group() -> Group:
  """The processes that the parsed flags say are to train as one.

  Raises:
    UserError: for flags that do not go together.
  """
  values = flags.FLAGS
  return Group(
    values.distributed,
    values.coordinator,
    values.process_count,
    values.process_id,
    values.join_timeout,
    values.mode == 'train',
  )


def told(settings: Settings) -> dict[str, Any]:
  """What all processes must have been told alike, by the names of flags."""
  recipe = flatten(settings.to_mapping())
  flag_values = {f'--{name}': flags.FLAGS[name].value for name in _ALIKE}
  return recipe | flag_values | dict.fromkeys(_OWN)


def _override(recipe: dict[str, Any], name: str, value: object) -> None:
  *sections, key = name.split('.')[1:]
  for section in sections:
    recipe = recipe[section]
  recipe[key] = value
