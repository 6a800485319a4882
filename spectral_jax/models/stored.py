"""What a transformer stores: told of the model alone, nothing is computed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import Transformer, TransformerConfig

_ONE_TOKEN = jax.ShapeDtypeStruct((1, 1), jnp.int32)
DENSE = LinearConfig('dense')


@functools.lru_cache(maxsize=8)
def abstract_params(model: Transformer) -> Any:
  """The shapes and dtypes of its parameters, below {'params': …}."""
  return jax.eval_shape(model.init, jax.random.key(0), _ONE_TOKEN)['params']


@functools.lru_cache(maxsize=8)
def layers_of(model: Transformer) -> dict[str, SpectralKernel]:
  """What its spectral layers store, by path."""
  return find_layers(model, _ONE_TOKEN)


def with_linear(model: Transformer, linear: LinearConfig) -> Transformer:
  """The model with other linear layers."""
  config = dataclasses.replace(model.config, linear=linear)
  return Transformer(model.vocabulary, config)


def parameter_bytes(model: Transformer) -> int:
  """What its parameters take."""
  return sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(abstract_params(model))
  )


def kernel_count(config: TransformerConfig) -> int:
  """The weights of all blocks' kernels, whatever is stored of them."""
  return config.layers * sum(n * m for n, m in config.kernel_shapes().values())
