"""Causal attention: of whole sequences, or of new tokens to those before.

Shapes: B sequences, T tokens, H heads, E features of a head; S is T on the side
of the keys, and in a cache the places of the context.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.platform import planned_platform
from spectral_jax.core.tall import matmul

# The most parts that queries are taken in, and how many a part has at least.
_PARTS = 4
_LEAST = 64


def causal_attention(
  q_BxTxHxE: jax.Array, k_BxSxHxE: jax.Array, v_BxSxHxE: jax.Array
) -> jax.Array:
  """Scaled dot-product attention in which no token sees a later one.

  On CPUs queries are taken in up to four parts, each with the keys up to its
  last one: of four parts that is 5/8 of the products, the softmax and what is
  kept for the backward pass. Written out, because there it is faster forward
  and backward than `jax.nn.dot_product_attention` (benchmarks/attention.py).
  The softmax is taken in float32.
  """
  q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q_BxTxHxE, k_BxSxHxE, v_BxSxHxE))
  length = q.shape[2]
  size = length
  if planned_platform() == 'cpu':
    size = max(math.ceil(length / _PARTS), _LEAST)
  parts = []
  for first in range(0, length, size):
    last = min(first + size, length)
    seen = np.tri(last - first, last, first, dtype=bool)
    q_part = q[:, :, first:last]
    parts.append(_attend(q_part, k[:, :, :last], v[:, :, :last], seen))
  return jnp.concatenate(parts, axis=1)


def _attend(
  q_BxHxTxE: jax.Array,
  k_BxHxSxE: jax.Array,
  v_BxHxSxE: jax.Array,
  seen_TxS: jax.typing.ArrayLike,
) -> jax.Array:
  """[B, T, H, E] of the values that each query sees."""
  scores = q_BxHxTxE @ jnp.swapaxes(k_BxHxSxE, -1, -2)
  scores = (scores / math.sqrt(q_BxHxTxE.shape[-1])).astype(jnp.float32)
  scores = jnp.where(jnp.asarray(seen_TxS)[None, None], scores, -jnp.inf)
  weights = jax.nn.softmax(scores).astype(v_BxHxSxE.dtype)
  return jnp.swapaxes(matmul(weights, v_BxHxSxE), 1, 2)


class Cache(NamedTuple):
  """The keys and values of a layer; those of later places are not seen."""

  keys_BxHxSxE: jax.Array
  values_BxHxSxE: jax.Array

  @classmethod
  def empty(
    cls, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
  ) -> 'Cache':
    """The cache before the first token; the shape is [*stack, B, H, S, E]."""
    return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

  def attend(
    self,
    q_BxTxHxE: jax.Array,
    k_BxTxHxE: jax.Array,
    v_BxTxHxE: jax.Array,
    start: jax.typing.ArrayLike,
  ) -> tuple[jax.Array, 'Cache']:
    """Attention of new tokens to those before, and causally to each other.

    Args:
      q_BxTxHxE: of the new tokens.
      k_BxTxHxE: likewise.
      v_BxTxHxE: likewise.
      start: how many went before; S − T at the most.

    Returns:
      [B, T, H, E], what `causal_attention` of all tokens has for the new ones;
      and the cache with them.
    """
    q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q_BxTxHxE, k_BxTxHxE, v_BxTxHxE))
    keys, values = (
      jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=2)
      for old, new in zip(self, (k, v), strict=True)
    )
    places_T, places_S = (jnp.arange(a.shape[2]) for a in (q, keys))
    seen_TxS = places_S[None] <= start + places_T[:, None]
    return _attend(q, keys, values, seen_TxS), Cache(keys, values)
