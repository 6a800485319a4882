"""What the page is served of a model: its file, and what to say of it."""

import dataclasses
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectral_jax.demo.runtime import FILES
from spectral_jax.errors import UserError
from spectral_jax.export.decoder import decoder
from spectral_jax.export.trained import Trained
from spectral_jax.models.stored import DENSE, parameter_bytes, with_linear
from spectral_jax.training.spectra import magnitudes
from spectral_jax.training.spectra_picture import mean_stored, pool

_TOKENIZERS = ('char', 'byte')


def files(trained: Trained, folder: Path) -> dict[str, bytes]:
  """All files, by their paths.

  Args:
    trained: the model.
    folder: of onnxruntime for browsers.

  Raises:
    UserError: for a tokenizer that the page does not have.
  """
  tokenizer = trained.tokenizer
  assert tokenizer is not None  # a run has one
  name = tokenizer.name
  if name not in _TOKENIZERS:
    raise UserError(
      f'WORKDIR: the page knows the tokenizers {" and ".join(_TOKENIZERS)}, '
      f'got {name}; export the run --format=onnx for a program of your own.'
    )
  # The graph cannot compute a random basis.
  basis = trained.model.config.linear.basis
  model = decoder(trained, 'inside' if basis == 'dct' else 'export')
  page = importlib.resources.files('spectral_jax.demo') / 'page'
  found = {file.name: file.read_bytes() for file in page.iterdir()}
  found |= {f'runtime/{name}': (folder / name).read_bytes() for name in FILES}
  found['model.onnx'] = model
  found['about.json'] = json.dumps(_about(trained, len(model))).encode()
  return found


def _about(trained: Trained, size: int) -> dict[str, Any]:
  config = trained.model.config
  return trained.to_generate() | {
    'layers': config.layers,
    'heads': config.heads,
    'features': config.width // config.heads,
    'linear': dataclasses.asdict(config.linear),
    'bytes': size,
    'dense_bytes': parameter_bytes(with_linear(trained.model, DENSE)),
    'spectra': _spectra(trained),
  }


def _spectra(trained: Trained) -> list[dict[str, Any]]:
  """|coefficients| over the plane, the mean of the layers of each kind."""
  params = jax.device_get(trained.params)
  found = []
  for name, stack in magnitudes(params, trained.model.config).items():
    cells = pool(mean_stored(stack, 0))
    found.append(
      {
        'name': name,
        'shape': stack.shape[1:],
        'stored': float(np.isfinite(stack).mean()),
        'cells': [
          [None if np.isnan(cell) else float(f'{cell:.4g}') for cell in row]
          for row in cells
        ],
      }
    )
  return found
