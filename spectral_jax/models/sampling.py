"""From logits to the next token: temperature, top-k and top-p.

Shapes: B samples, V vocabulary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class SamplingRule(NamedTuple):
  """How tokens are drawn: numbers, of which none needs another program.

  Attributes:
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: only so many likeliest tokens are drawn from; 0 for all.
    top_p: only the likeliest ones are that together have this probability; 1
      for all.
  """

  temperature: jax.Array
  top_k: jax.Array
  top_p: jax.Array

  @classmethod
  def of(cls, temperature: float, top_k: int, top_p: float) -> 'SamplingRule':
    """The rule of plain numbers, checked.

    Raises:
      ValueError: names the number, what was expected, and what was got.
    """
    if not 0 <= temperature < math.inf:
      raise ValueError(f'temperature: expected 0 or more, got {temperature}.')
    if not 0 <= top_k < 2**31:
      raise ValueError(f'top_k: expected 0 (all) or more, got {top_k}.')
    if not 0 < top_p <= 1:
      raise ValueError(f'top_p: expected above 0 and up to 1, got {top_p}.')
    return cls(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


def keys_of_samples(key: jax.Array, samples: int) -> jax.Array:
  """A key [B] for each sample, the same however many there are."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(samples))


def draw(
  logits_BxV: jax.Array, keys_B: jax.Array, rule: SamplingRule
) -> jax.Array:
  """Draws a token [B], int32, for each sample."""
  scaled_BxV = logits_BxV / jnp.maximum(rule.temperature, 1e-6)
  restricted = (rule.top_k > 0) | (rule.top_p < 1)
  # Sorting a large vocabulary is most of the work, and seldom asked for.
  scaled_BxV = jax.lax.cond(
    restricted, lambda x: _restrict(x, rule), lambda x: x, scaled_BxV
  )
  drawn_B = jax.vmap(jax.random.categorical)(keys_B, scaled_BxV)
  return jnp.where(
    rule.temperature > 0, drawn_B, logits_BxV.argmax(axis=-1)
  ).astype(jnp.int32)


def _restrict(logits_BxV: jax.Array, rule: SamplingRule) -> jax.Array:
  """−∞ for all but the likeliest tokens; those that tie with the last stay."""
  size = logits_BxV.shape[-1]
  sorted_BxV = jnp.sort(logits_BxV, axis=-1, descending=True)
  count = jnp.where(rule.top_k > 0, rule.top_k, size)
  in_top_k_1xV = jnp.arange(size)[None] < count
  chances_BxV = jax.nn.softmax(jnp.where(in_top_k_1xV, sorted_BxV, -jnp.inf))
  before_BxV = jnp.cumsum(chances_BxV, axis=-1) - chances_BxV
  # Of all tokens the first one is before none, so that one is always kept; and
  # rounding must not take away the last ones where all are asked for.
  in_top_p_BxV = (before_BxV < rule.top_p) | (rule.top_p >= 1)
  kept_BxV = in_top_k_1xV & in_top_p_BxV
  least_Bx1 = jnp.where(kept_BxV, sorted_BxV, jnp.inf).min(-1, keepdims=True)
  return jnp.where(logits_BxV >= least_Bx1, logits_BxV, -jnp.inf)
