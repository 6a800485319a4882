"""Shows a trained model in a browser, which computes by itself.

  python -m spectral_jax demo WORKDIR [--port=8000] [--runtime=FOLDER]

A page on this machine alone writes text by the model. The model runs in the
page, by onnxruntime's WebAssembly, downloaded once from npm's registry,
or found in FOLDER (package/dist of the npm package onnxruntime-web). See
docs/edge.md.
"""

from pathlib import Path

from absl import flags

from spectral_jax.commands.export import read_trained
from spectral_jax.commands.runs import define_checkpoint_flag, one_argument
from spectral_jax.demo import contents, runtime
from spectral_jax.demo.server import Server


def define_flags() -> None:
  """Defines this command's flags."""
  define_checkpoint_flag()
  flags.DEFINE_integer('port', 8000, 'Of the page; 0 for any that is free.')
  flags.DEFINE_string(
    'runtime', None, 'The folder of onnxruntime for browsers.'
  )


def run(arguments: list[str]) -> None:
  """Serves the page until Ctrl-C.

  Raises:
    UserError: if there is no run, no runtime, or no such port.
  """
  values = flags.FLAGS
  directory = one_argument(arguments)
  trained = read_trained(directory)
  folder = values.runtime and Path(values.runtime).expanduser()
  files = contents.files(trained, runtime.find(folder))
  with Server(files, values.port) as server:
    print(f'{server.url} shows {directory}; Ctrl-C ends it', flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print()
