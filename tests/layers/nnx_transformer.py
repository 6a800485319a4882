"""A small NNX transformer, as somebody writes it who knows nothing of us."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Config:
  vocabulary: int = 16
  length: int = 12
  width: int = 16
  heads: int = 2
  hidden: int = 32
  layers: int = 2
  dtype: jnp.dtype | None = None


class Mlp(nnx.Module):
  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(
      config.width, config.hidden, dtype=config.dtype, rngs=rngs
    )
    self.down = nnx.Linear(
      config.hidden, config.width, dtype=config.dtype, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(nnx.gelu(self.up(x)))


class Block(nnx.Module):
  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.norm_1 = nnx.LayerNorm(config.width, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      num_heads=config.heads,
      in_features=config.width,
      dtype=config.dtype,
      decode=False,
      rngs=rngs,
    )
    self.norm_2 = nnx.LayerNorm(config.width, rngs=rngs)
    self.mlp = Mlp(config, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    mask = nnx.make_causal_mask(jnp.ones(x.shape[:2]))
    x = x + self.attention(self.norm_1(x), mask=mask)
    return x + self.mlp(self.norm_2(x))


class Transformer(nnx.Module):
  def __init__(self, config: Config, *, rngs: nnx.Rngs):
    self.embed = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
    self.positions = nnx.Embed(config.length, config.width, rngs=rngs)
    self.blocks = nnx.List(
      [Block(config, rngs=rngs) for _ in range(config.layers)]
    )
    self.norm = nnx.LayerNorm(config.width, rngs=rngs)
    self.head = nnx.Linear(
      config.width, config.vocabulary, use_bias=False, rngs=rngs
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = self.embed(tokens) + self.positions(jnp.arange(tokens.shape[1]))[None]
    for block in self.blocks:
      x = block(x)
    return self.head(self.norm(x))


@nnx.jit
def train_step(
  model: nnx.Module, optimizer: nnx.Optimizer, tokens: jax.Array
) -> jax.Array:
  def loss_fn(model: nnx.Module) -> jax.Array:
    log_probs = jax.nn.log_softmax(model(tokens[:, :-1]))
    picked = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)
    return -picked.mean()

  loss, grads = nnx.value_and_grad(loss_fn)(model)
  optimizer.update(model, grads)
  return loss
