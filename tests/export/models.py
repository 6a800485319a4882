"""Small models with a recipe, as a run has them."""

import functools
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from configs import base
from spectral_jax.data.tokenizer import CharTokenizer, Tokenizer
from spectral_jax.export.trained import Trained, leaf_shapes
from spectral_jax.models.transformer import Transformer
from spectral_jax.training.settings import Settings

CHARACTERS = CharTokenizer('\n !abcdeé🎭')
TOKENS_2x7 = np.arange(14).reshape(2, 7) % CHARACTERS.vocabulary_size


def small(
  tokenizer: Tokenizer = CHARACTERS, linear: str = 'spectral', **model: object
) -> Trained:
  """A model of two layers; all its parameters are drawn, biases too."""
  recipe = base.get_config().to_dict()
  recipe['model'] |= {'context': 16, 'width': 16, 'layers': 2, 'heads': 2}
  recipe['model'] |= model
  recipe['model']['linear'] |= {'kind': linear, 'rank': 3, 'selection': 'band'}
  config = Settings.from_mapping(recipe).model
  transformer = Transformer(tokenizer.vocabulary_size, config)
  draw = np.random.default_rng(0)
  leaves = {
    name: 0.3 * draw.standard_normal(shape, np.float32)
    for name, shape in leaf_shapes(transformer).items()
  }
  params = traverse_util.unflatten_dict(leaves, sep='.')
  return Trained(transformer, params, tokenizer, recipe, 'of some text')


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Transformer, params: Any) -> jax.Array:
  return model.apply({'params': params}, TOKENS_2x7)


def logits(trained: Trained) -> np.ndarray:
  """Its logits of TOKENS_2x7."""
  return np.asarray(_logits(trained.model, trained.params))
