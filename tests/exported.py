"""Models to export, and the text that JAX has of them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectral_jax.data.tokenizer import ByteTokenizer
from spectral_jax.export.trained import Trained
from spectral_jax.models.generate import slide
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
  """Text by JAX, which encodes every window as a whole."""
  context = trained.model.config.context
  apply = jax.jit(trained.model.apply)
  text = trained.tokenizer.encode(prompt).tolist()
  window = text[-context:]
  for _ in range(length):
    padded = np.pad(window, (0, context - len(window)))[None]
    logits = apply({'params': trained.params}, padded)
    text.append(int(logits[0, len(window) - 1].argmax()))
    window.append(text[-1])
    if len(window) > context:
      window = window[slide(context) :]
  return trained.tokenizer.decode(text)
