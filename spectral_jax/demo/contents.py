"""What the page is served of a model: its file, and what to say of it."""

import dataclasses
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.data.tokenizer import Tokenizer, tokenizer_fields
from spectral_jax.demo.runtime import FILES
from spectral_jax.errors import UserError
from spectral_jax.export.decoder import decoder
from spectral_jax.export.trained import Trained
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.generate import slide
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
  found['about.json'] = json.dumps(
    _about(trained, tokenizer, len(model))
  ).encode()
  return found


def _about(trained: Trained, tokenizer: Tokenizer, size: int) -> dict[str, Any]:
  config = trained.model.config
  return {
    'tokenizer': tokenizer_fields(tokenizer),
    'context': config.context,
    'slide': slide(config.context),
    'layers': config.layers,
    'heads': config.heads,
    'features': config.width // config.heads,
    'linear': dataclasses.asdict(config.linear),
    'bytes': size,
    'dense_bytes': _dense_bytes(trained),
    'spectra': _spectra(trained),
  }


def _dense_bytes(trained: Trained) -> int:
  """Of the parameters of the same model with dense layers, in float32."""
  config = dataclasses.replace(
    trained.model.config, linear=LinearConfig(kind='dense')
  )
  tokens = jnp.zeros((1, config.context), jnp.int32)
  shapes = jax.eval_shape(
    trained.model.copy(config=config).init, jax.random.key(0), tokens
  )
  return sum(4 * leaf.size for leaf in jax.tree.leaves(shapes))


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
