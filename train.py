"""Trains a transformer in cosine coefficient space, and uses what it trained.

  python train.py
  python train.py --config=configs/paper.py:spectral-50 --workdir=DIR
  python train.py --mode=eval --workdir=DIR
  python train.py --mode=sample --workdir=DIR --prompt='ROMEO:'
  python train.py --mode=compile --topology=v5e:16x16 --config=configs/c4.py

The same command again goes on where the run stopped.
"""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from logging import CRITICAL, getLogger
from pathlib import Path

from absl import app, flags, logging

from spectral_jax.errors import UserError
from spectral_jax.training import command, sampling_flags

command.define_flags(Path(__file__).parent / 'configs' / 'shakespeare.py')
flags.adopt_module_key_flags(command)


def main(argv: Sequence[str]) -> None:
  """Does what --mode says."""
  del argv
  # Imported here, so that a mistyped flag is answered at once.
  from spectral_jax.training import aot, interruption, loop, processes
  from spectral_jax.training.machine import keep_memory

  # What is imported stays: to look through it for garbage again and again,
  # while JAX traces, takes a tenth of the time of a small run.
  gc.freeze()
  values = flags.FLAGS
  if not values['verbosity'].present:
    # Orbax tells of each save in a dozen lines; --verbosity=0 brings them back.
    logging.set_verbosity(logging.WARNING)
    # What a save of Orbax's raises is told in a line.
    getLogger('asyncio').setLevel(CRITICAL)
  stopped = interruption.Interruption()
  try:
    settings, workdir = command.run_settings()
    heeded = stopped if values.mode == 'train' else nullcontext()
    with heeded, processes.joined(command.group(), command.told(settings)):
      if values.mode != 'compile':  # which leaves the devices here alone
        keep_memory()
      if values.mode == 'train':
        loop.train(settings, workdir, stopped)
      elif values.mode == 'eval':
        loop.evaluate(settings, workdir, values.checkpoint)
      elif values.mode == 'sample':
        loop.sample(
          settings, workdir, values.checkpoint, sampling_flags.given()
        )
      else:
        aot.compile_ahead(settings, values.topology, values.slices)
  except UserError as error:
    command.fail(str(error))
  except KeyboardInterrupt:
    print('\ninterrupted')
    sys.exit(130)
  except BrokenPipeError:  # who reads the output, as head, has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)
  if stopped.by:
    sys.exit(interruption.told(stopped.by))


if __name__ == '__main__':
  app.run(main, flags_parser=command.parse_flags)
