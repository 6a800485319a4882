"""Models to export, and the text that JAX has of them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectral_jax.data.tokenizer import ByteTokenizer
from spectral_jax.export.trained import Trained
from spectral_jax.models.generate import generate
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import loop
from spectral_jax.training.settings import Settings
from spectral_jax.training.workdir import read_recipe

SMALL = {'context': 16, 'width': 32, 'layers': 2, 'heads': 2}


def random_model(**config: Any) -> Trained:
  model = Transformer(256, TransformerConfig(**SMALL | config))
  tokens = np.zeros((1, 16), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  draw = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: np.float32(draw.normal(size=leaf.shape) / 4), shapes
  )
  return Trained(model, params, ByteTokenizer())


def trained_model(workdir: Path) -> Trained:
  settings = Settings.from_mapping(read_recipe(workdir))
  experiment, state = loop.restore(settings, workdir, 'latest')
  return Trained(experiment.model, state.params, experiment.tokenizer)


def greedy(trained: Trained, prompt: str, length: int) -> str:
  """The prompt and the likeliest text after it, by JAX."""
  ids = trained.tokenizer.encode(prompt)
  (drawn_L,) = generate(
    trained.model,
    jax.device_get(trained.params),
    ids,
    length=length,
    key=jax.random.key(0),
    temperature=0.0,
  )
  return trained.tokenizer.decode(np.concatenate([ids, drawn_L]))
