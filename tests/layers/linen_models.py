"""Models as other people write them, in plain linen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class EncoderBlock(nn.Module):
  """Post-norm, as in "Attention Is All You Need"."""

  heads: int
  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    y = nn.MultiHeadDotProductAttention(num_heads=self.heads)(x, mask=mask)
    x = nn.LayerNorm()(x + y)
    y = nn.Dense(self.hidden)(x)
    y = nn.gelu(y)
    y = nn.Dense(x.shape[-1])(y)
    return nn.LayerNorm()(x + y)


class Encoder(nn.Module):
  """Tokens to logits; the head is named, the rest numbered."""

  vocabulary: int = 11
  width: int = 16

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = nn.Embed(self.vocabulary, self.width)(tokens)
    for i in range(2):
      x = EncoderBlock(heads=2, hidden=32, name=f'encoderblock_{i}')(x)
    return nn.Dense(self.vocabulary, name='head')(x)


class DecoderLayer(nn.Module):
  """One layer of a scanned stack; its kernels name their axes."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
    def named(*axes: str | None) -> Any:
      return nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)

    width = x.shape[-1]
    y = nn.RMSNorm(name='pre_attention')(x)
    y = nn.MultiHeadAttention(
      num_heads=2,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=named('embed', 'heads'),
      name='attention',
    )(y, mask=mask)
    x = x + y
    y = nn.RMSNorm(name='pre_mlp')(x)
    gate, up = jnp.split(
      nn.DenseGeneral(
        (2, 2 * width),
        use_bias=False,
        kernel_init=named('embed', 'mlp'),
        name='wi',
      )(y),
      2,
      axis=-2,
    )
    y = (nn.silu(gate) * up).squeeze(-2)
    y = nn.Dense(
      width, use_bias=False, kernel_init=named('mlp', 'embed'), name='wo'
    )(y)
    return x + y, None


class Decoder(nn.Module):
  """A causal language model, its layers scanned and rematerialised."""

  vocabulary: int = 11
  width: int = 16
  layers: int = 3
  axis: int = 0

  def setup(self) -> None:
    self.embed = nn.Embed(self.vocabulary, self.width)
    self.stack = nn.scan(
      nn.remat(DecoderLayer, prevent_cse=False),
      variable_axes={'params': self.axis},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )()
    self.norm = nn.RMSNorm()

  def __call__(self, tokens: jax.Array) -> jax.Array:
    mask = nn.make_causal_mask(tokens)
    x, _ = self.stack(self.embed(tokens), mask)
    return self.embed.attend(self.norm(x))


class VisionTransformer(nn.Module):
  """Images [B, H, W, C] to classes, with a token for the class."""

  classes: int = 5
  width: int = 16

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    x = nn.Conv(self.width, (4, 4), strides=(4, 4), name='embedding')(images)
    x = x.reshape(x.shape[0], -1, self.width)
    cls = self.param('cls', nn.initializers.zeros, (1, 1, self.width))
    x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
    x += self.param(
      'pos_embedding', nn.initializers.normal(0.02), (1, *x.shape[1:])
    )
    for _ in range(2):
      y = nn.LayerNorm()(x)
      y = nn.MultiHeadDotProductAttention(4, deterministic=not train)(y)
      x += y
      y = nn.LayerNorm()(x)
      y = nn.Dense(4 * self.width)(y)
      x += nn.Dense(self.width)(nn.gelu(y))
    return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])
