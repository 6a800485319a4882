"""Causal attention, forward and backward: ours against JAX's and Flax's.

python -m benchmarks.attention [--rounds=30]
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import timing
from spectral_jax.models.attention import causal_attention
from spectral_jax.training.machine import keep_memory

_ROUNDS = flags.DEFINE_integer('rounds', 30, 'Counted calls of each.')
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _by_jax(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def _by_flax(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  mask = nn.make_causal_mask(jnp.ones(q.shape[:2]))
  return nn.dot_product_attention(q, k, v, mask=mask)


def _gradient(attention: Attention) -> Attention:
  def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.sum(attention(q, k, v) ** 2)

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


_PASSES: dict[str, Callable[[Attention], Attention]] = {
  'forward': jax.jit,
  'forward and backward': _gradient,
}


def main(argv: Sequence[str]) -> None:
  """Times the three at the default model's shape, in two batch sizes."""
  del argv
  keep_memory()
  timing.print_machine()
  contenders: dict[str, Attention] = {
    'ours': causal_attention,
    'jax.nn': _by_jax,
    'flax': _by_flax,
  }
  for batch_size in (16, 32):
    shape = (3, batch_size, 128, 4, 32)
    q, k, v = jax.random.normal(jax.random.key(0), shape)
    for title, wrap in _PASSES.items():
      calls = {
        name: functools.partial(wrap(attention), q, k, v)
        for name, attention in contenders.items()
      }
      timing.print_ratios(
        f'attention, {batch_size}×128×4×32, {title}',
        timing.interleave(calls, _ROUNDS.value),
      )


if __name__ == '__main__':
  app.run(main)
