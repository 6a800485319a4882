"""The coefficients and what rebuilds a model of them, in one small file.

The file is one of safetensors: a header of JSON, then the numbers.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from safetensors.flax import save_file

from spectral_jax.errors import UserError
from spectral_jax.export.trained import Options, Trained


def write(trained: Trained, out: Path, options: Options) -> None:
  """Writes a model's parameters, its config and its tokenizer.

  Args:
    trained: what to write.
    out: the file.
    options: dtype: float32.

  Raises:
    UserError: for another dtype.
  """
  if options.dtype not in (None, 'float32'):
    raise UserError(f'--dtype: expected float32, got {options.dtype}.')
  leaves = traverse_util.flatten_dict(trained.params, sep='.')
  layers = {
    path: dataclasses.asdict(kernel)
    for path, kernel in trained.layers().items()
  }
  metadata = {
    'model': dataclasses.asdict(trained.model.config),
    'layers': layers,
    'recipe': trained.recipe,
    'data': trained.digest,
  }
  save_file(
    {
      name: jax.numpy.asarray(leaf, np.float32) for name, leaf in leaves.items()
    },
    out,
    {name: json.dumps(content) for name, content in metadata.items()},
  )
