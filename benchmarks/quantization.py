"""Loss against bytes: exported runs of several K, at each precision.

  python -m benchmarks.quantization WORKDIR... [--keep=0.25]

For each run, and with --keep each spectral run cut to that K as well, writes
the file of `python -m spectral_jax export` at each precision, reads it back,
and scores what it read on the validation split. Prints a Markdown table; bytes
are those of the whole file.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.arguments import fail, parse_flags
from spectral_jax.commands.runs import Run, define_checkpoint_flag
from spectral_jax.errors import UserError
from spectral_jax.export import coefficients
from spectral_jax.export.loading import load_exported
from spectral_jax.export.trained import DTYPES, Options, Trained
from spectral_jax.training import workdir
from spectral_jax.training.experiment import Experiment

define_checkpoint_flag()
_KEEP = flags.DEFINE_float('keep', None, 'Runs are also cut to this K.')


def _models(folder: Path) -> Iterator[tuple[str, Experiment, Trained]]:
  """A run, and what it is when cut; with a name for each."""
  run = Run.read(folder)
  run.check_convertible(folder)
  variants = [('', run.experiment, run.recipe, run.state.params)]
  if _KEEP.value is not None and run.kind == 'spectral':
    cut = run.experiment_with(keep=_KEEP.value)
    recipe = run.recipe_with(keep=_KEEP.value)
    variants.append((', cut', cut, recipe, run.params_as(cut)))
  for how, experiment, recipe, params in variants:
    linear = experiment.settings.model.linear
    name = linear.kind
    if name == 'spectral':
      name = f'{linear.selection}, keep {linear.keep:g}{how}'
    trained = Trained(
      experiment.model,
      params,
      experiment.tokenizer,
      recipe,
      workdir.read_digest(folder),
    )
    yield name, experiment, trained


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  if len(argv) < 2:
    fail('WORKDIR: expected at least one run.')
  logging.set_verbosity(logging.WARNING)  # Orbax tells of each reading
  print('| run | parameters | precision | bytes | loss, nats | − float32 |')
  print('|---|---|---|---|---|---|')
  try:
    for argument in argv[1:]:
      for name, experiment, trained in _models(Path(argument)):
        _print_rows(name, experiment, trained)
  except UserError as error:
    fail(str(error))


def _print_rows(name: str, experiment: Experiment, trained: Trained) -> None:
  count = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
  exact = None
  with tempfile.TemporaryDirectory() as folder:
    for dtype in DTYPES:
      path = Path(folder) / dtype
      coefficients.write(trained, path, Options(dtype))
      loss = experiment.score(load_exported(path).params, 'validation').loss
      exact = loss if exact is None else exact
      print(
        f'| {name} | {count:,} | {dtype} | {path.stat().st_size:,} | '
        f'{loss:.4f} | {loss - exact:+.4f} |',
        flush=True,
      )


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
