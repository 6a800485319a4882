"""Settings of optimizers, and parameters and gradients for them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.stored import layers_of
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.optimizer import path_name
from spectral_jax.training.settings import OptimizerSettings

# No warm-up: the first step is taken at the peak.
ADAMW = OptimizerSettings(
  name='adamw',
  learning_rate=0.01,
  muon_learning_rate=0.03,
  gradients='coefficients',
  warmup_steps=0,
  final_fraction=0.1,
  weight_decay=0.5,
  b1=0.9,
  b2=0.99,
  clip_norm=1.0,
)
MUON = dataclasses.replace(ADAMW, name='muon', weight_decay=0.0)
STEPS = 10


def make_config(linear: LinearConfig) -> TransformerConfig:
  return TransformerConfig(
    context=4, width=16, layers=1, heads=2, linear=linear
  )


def layers(config: TransformerConfig, params: Any) -> dict[str, SpectralKernel]:
  """Of a model, those that are among the parameters."""
  stored, names = layers_of(Transformer(5, config)), by_name(params)
  return {
    path: kernel
    for path, kernel in stored.items()
    if f'{path}/coefficients' in names
  }


def draw_like(config: TransformerConfig, seed: int) -> Any:
  """Random numbers in the place of each parameter, none near zero."""
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  shapes = jax.eval_shape(
    Transformer(5, config).init, jax.random.key(0), tokens
  )
  rng = np.random.default_rng(seed)

  def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    sign = rng.choice([-1.0, 1.0], leaf.shape)
    return (sign * rng.uniform(0.5, 1.5, leaf.shape)).astype(np.float32)

  return jax.tree.map(draw, shapes['params'])


def by_name(tree: Any) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_name(path): np.asarray(leaf) for path, leaf in leaves}
