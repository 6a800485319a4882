"""Works on what a run left behind: python -m spectral_jax VERB …."""

import importlib
import sys

from absl import app, flags, logging

from spectral_jax.commands import runs
from spectral_jax.errors import UserError
from spectral_jax.training.command import fail, parse

_VERBS = {
  'convert': 'dense to spectral, spectral to dense, or from one K to another',
  'demo': 'the model in a browser, on this machine',
  'elastic': 'what the loss is with fewer coefficients',
  'export': 'the model for others to run, or in a small file',
  'import': 'such a file, or a GPT-2, as a run',
  'inspect': "each layer's rank, energy and storage; the pictures",
  'verify': 'whether each checkpoint is what was saved',
}


def _usage() -> str:
  verbs = '\n'.join(f'  {verb}  {line}' for verb, line in _VERBS.items())
  return (
    f'python -m spectral_jax VERB …\n\n{verbs}\n\n'
    'python -m spectral_jax VERB --help tells more of each.'
  )


def main() -> None:
  """Does what the verb says."""
  verb, *rest = sys.argv[1:] or ['--help']
  if verb in ('--help', '-h', '--helpshort', '--helpfull'):
    print(_usage())
    return
  if verb not in _VERBS:
    fail(f'{verb}: no such verb; there are {", ".join(_VERBS)}.')
  name = 'import_' if verb == 'import' else verb  # Python keeps that word
  command = importlib.import_module(f'spectral_jax.commands.{name}')
  command.define_flags()
  for module in (command, runs):
    flags.adopt_module_key_flags(module)  # or --help would not show them

  def run(argv: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      # Orbax tells of each save in a dozen lines; --verbosity=0 shows them.
      logging.set_verbosity(logging.WARNING)
    try:
      command.run(argv[1:])
    except UserError as error:
      fail(str(error))

  sys.modules['__main__'].__doc__ = command.__doc__  # what --help shows
  app.run(run, [f'python -m spectral_jax {verb}', *rest], flags_parser=parse)


if __name__ == '__main__':
  main()
