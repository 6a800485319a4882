"""Text from a trained transformer, a token at a time.

Shapes: T the model's context; L tokens to generate.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.models.transformer import Transformer


@functools.partial(jax.jit, static_argnames=('model', 'length'))
def _continue(
  model: Transformer,
  params: Any,
  window_T: jax.Array,
  filled: jax.Array,
  key: jax.Array,
  temperature: jax.Array,
  *,
  length: int,
) -> jax.Array:
  context = model.config.context

  def step(
    carry: tuple[jax.Array, jax.Array], key: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    window_T, filled = carry
    logits_1xTxV = jnp.asarray(model.apply({'params': params}, window_T[None]))
    logits_V = logits_1xTxV[0, filled - 1]
    drawn = jax.random.categorical(
      key, logits_V / jnp.maximum(temperature, 1e-6)
    )
    token = jnp.where(temperature > 0, drawn, logits_V.argmax()).astype(
      jnp.int32
    )
    # A full window slides: positions are learned up to the context alone.
    window_T = jnp.where(filled == context, jnp.roll(window_T, -1), window_T)
    place = jnp.minimum(filled, context - 1)
    return (window_T.at[place].set(token), place + 1), token

  _, tokens_L = jax.lax.scan(
    step, (window_T, filled), jax.random.split(key, length)
  )
  return tokens_L


def generate(
  model: Transformer,
  params: Any,
  prompt: np.ndarray,
  *,
  length: int,
  key: jax.Array,
  temperature: float = 0.8,
) -> np.ndarray:
  """Draws tokens, each given those before it, as far as the context reaches.

  Args:
    model: gives the logits.
    params: its parameters.
    prompt: at least one token, int32; the last T count.
    length: L.
    key: of the draws.
    temperature: divides the logits; 0 takes the likeliest token.

  Returns:
    The L tokens that follow the prompt, int32.

  Raises:
    ValueError: for an empty prompt, a length below 1, or a temperature below 0.
  """
  if len(prompt) == 0:
    raise ValueError('prompt: expected at least one token, got none.')
  if length < 1:
    raise ValueError(f'length: expected at least 1, got {length}.')
  if not 0 <= temperature < float('inf'):
    raise ValueError(f'temperature: expected 0 or more, got {temperature}.')
  context = model.config.context
  kept = np.asarray(prompt[-context:], np.int32)
  window_T = np.zeros(context, np.int32)
  window_T[: len(kept)] = kept
  tokens_L = _continue(
    model,
    params,
    jnp.asarray(window_T),
    jnp.asarray(len(kept)),
    key,
    jnp.asarray(temperature, jnp.float32),
    length=length,
  )
  return np.asarray(tokens_L)
