"""Writes a trained model for others to run.

  python -m spectral_jax export WORKDIR OUT --format=safetensors --dtype=int8
  python -m spectral_jax export WORKDIR OUT --format=gpt2
  python -m spectral_jax export WORKDIR OUT --format=onnx [--rebuild=export]
  python -m spectral_jax export WORKDIR OUT --format=stablehlo

OUT is a new file or folder, as the format has it. See docs/export.md and, for
onnx and stablehlo, docs/edge.md.
"""

import importlib
import shutil
from pathlib import Path

from absl import flags

from spectral_jax.commands.runs import Run, define_checkpoint_flag, new_path
from spectral_jax.errors import UserError
from spectral_jax.export.trained import DTYPES, REBUILD, Options, Trained
from spectral_jax.training import workdir

# Each in a module of its own, since it may want a library of its own.
_FORMATS = {
  'safetensors': 'coefficients',
  'onnx': 'decoder',
  'stablehlo': 'programs',
  'gpt2': 'gpt2',
}


def define_flags() -> None:
  """Defines this command's flags."""
  define_checkpoint_flag()
  flags.DEFINE_enum('format', 'safetensors', list(_FORMATS), 'Of OUT.')
  flags.DEFINE_enum(
    'rebuild',
    'inside',
    list(REBUILD),
    'For onnx and stablehlo: whether OUT makes kernels of coefficients when it '
    'is loaded, or has them made.',
  )
  flags.DEFINE_enum('dtype', None, list(DTYPES), 'Of the numbers in OUT.')


def read_trained(directory: Path) -> Trained:
  """The model of a run, at the step that --checkpoint names.

  Raises:
    UserError: if there is none.
  """
  run = Run.read(directory)
  return Trained(
    run.experiment.model,
    run.state.params,
    run.experiment.tokenizer,
    run.recipe,
    workdir.read_digest(directory),
  )


def _size(path: Path) -> int:
  if path.is_dir():
    return sum(_size(child) for child in path.iterdir())
  return path.stat().st_size


def run(arguments: list[str]) -> None:
  """Writes the run in the first argument to the second.

  Raises:
    UserError: if there is no run, or the format cannot hold it; OUT is then not
      there.
  """
  if len(arguments) != 2:
    raise UserError(f'expected WORKDIR and OUT, got {len(arguments)} paths.')
  values = flags.FLAGS
  out = new_path(arguments[1])
  trained = read_trained(Path(arguments[0]).expanduser())
  name = _FORMATS[values.format]
  try:
    module = importlib.import_module(f'spectral_jax.export.{name}')
  except ImportError as error:
    raise UserError(
      f'--format={values.format}: {error.name} cannot be imported; '
      'pip install -r requirements-export.txt'
    ) from None
  # Under another name until it is whole.
  partial = out.with_name(f'{out.name}.partial')
  try:
    module.write(trained, partial, Options(values.dtype, values.rebuild))
    partial.replace(out)
  except OSError as error:
    raise UserError(f'OUT: {out}: {error.strerror}; name another.') from None
  finally:
    if partial.is_dir():
      shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
  print(f'written: {out.absolute()} ({_size(out):,} bytes)')
