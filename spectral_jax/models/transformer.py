"""A decoder-only transformer whose linear layers are a choice.

Shapes: B sequences of T tokens, A = BT of them all; D width, V vocabulary.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.product import matrix_product
from spectral_jax.models.attention import Cache, causal_attention

# The name of the stack of blocks that are scanned.
SCANNED = 'blocks'
QKV = ('fused', 'separate')
DTYPES = ('float32', 'bfloat16')
# Where several devices share a layer, each has its own outputs of the first
# kind, and its own inputs of the second, so that between the two every head
# and every hidden unit lies on one device (Megatron-LM).
SPLIT_OUTPUTS = ('query', 'key', 'value', 'mlp_in')
SPLIT_INPUTS = ('out', 'mlp_out')


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The architecture; the defaults are the paper's.

  Attributes:
    context: the longest sequence, in tokens.
    width: D, the size of the residual stream.
    layers: the number of blocks.
    heads: H, dividing D.
    dropout: the rate, after the embedding and after each branch.
    initial_scale: of the blocks' kernels: their standard deviation over the
      usual one, 1/√N.
    qkv: queries, keys and values from one kernel [D, 3D] (`fused`), or from
      three [D, D] (`separate`): the same function of a dense model and, dense
      or spectral, as many parameters.
    norm_epsilon: added to the variance by every layer norm.
    dtype: of the computation, `float32` or `bfloat16`; parameters, softmax and
      logits are float32 all the same, and so are rebuilt kernels until they are
      multiplied, maybe from rounded factors (see `SpectralDense.method`).
    scan: whether one compiled block serves all layers, their parameters stacked
      along a first axis: compiling takes no longer for more layers. All layers
      then store the same positions.
    remat: whether a block's activations are computed again for its backward
      pass, and not kept.
    linear: the linear layers of the blocks; embeddings, norms, biases and the
      head are always stored as they are.

  Raises:
    ValueError: names the field, what was expected, and what was got.
  """

  context: int = 128
  width: int = 128
  layers: int = 4
  heads: int = 4
  dropout: float = 0.0
  initial_scale: float = 1.0
  qkv: str = 'fused'
  norm_epsilon: float = 1e-6
  dtype: str = 'float32'
  scan: bool = False
  remat: bool = False
  linear: LinearConfig = dataclasses.field(default_factory=LinearConfig)

  def __post_init__(self) -> None:
    for field in ('context', 'width', 'layers', 'heads'):
      if getattr(self, field) < 1:
        raise ValueError(
          f'{field}: expected at least 1, got {getattr(self, field)}.'
        )
    if self.width % self.heads:
      raise ValueError(
        f'heads: expected a divisor of the width {self.width}, got '
        f'{self.heads}.'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(
        f'dropout: expected 0 up to but not 1, got {self.dropout}.'
      )
    for field in ('initial_scale', 'norm_epsilon'):
      if not 0 < getattr(self, field) < math.inf:
        raise ValueError(
          f'{field}: expected a number above 0, got {getattr(self, field)}.'
        )
    for field, choices in (('qkv', QKV), ('dtype', DTYPES)):
      value = getattr(self, field)
      if value not in choices:
        raise ValueError(
          f'{field}: expected one of {", ".join(choices)}, got {value!r}.'
        )
    for name, shape in self.kernel_shapes().items():
      try:
        self.linear.check(shape)
      except ValueError as error:
        raise ValueError(f'linear.{error} (layer {name})') from None

  def kernel_shapes(self) -> dict[str, tuple[int, int]]:
    """The kernel shape [N, M] of each linear layer of a block, by name."""
    d = self.width
    if self.qkv == 'fused':
      attention = {'qkv': (d, 3 * d)}
    else:
      attention = {'query': (d, d), 'key': (d, d), 'value': (d, d)}
    rest = {'out': (d, d), 'mlp_in': (d, 4 * d), 'mlp_out': (4 * d, d)}
    return attention | rest

  def norm(self, name: str) -> nn.LayerNorm:
    """A layer norm of the model."""
    return nn.LayerNorm(self.norm_epsilon, self.dtype, name=name)

  def seed(self, layer: int, name: str) -> int:
    """The seed with which a linear layer draws its positions."""
    names = list(self.kernel_shapes())
    return (0 if self.scan else layer) * len(names) + names.index(name)

  def block_name(self, layer: int) -> str:
    """Under which name a model's parameters have those of a block."""
    return SCANNED if self.scan else f'block_{layer}'

  def block_params(self, params: Any, layer: int) -> Any:
    """The parameters of a block, out of all those of a model."""
    found = params[self.block_name(layer)]
    return jax.tree.map(lambda leaf: leaf[layer], found) if self.scan else found


class Block(nn.Module):
  """One pre-norm block: attention, then MLP, each added to the stream."""

  config: TransformerConfig
  layer: int

  def _linear(self, name: str) -> nn.Module:
    variance = self.config.initial_scale**2
    # Branches end smaller, lest more blocks make the stream vary more (GPT-2).
    if name in ('out', 'mlp_out'):
      variance /= 2 * self.config.layers
    return self.config.linear.make(
      self.config.kernel_shapes()[name][1],
      seed=self.config.seed(self.layer, name),
      dtype=self.config.dtype,
      kernel_init=nn.initializers.variance_scaling(
        variance, 'fan_in', 'truncated_normal'
      ),
      name=name,
    )

  @nn.compact
  def __call__(
    self,
    x_BxTxD: jax.Array,
    train: bool = False,
    cache: Cache | None = None,
    start: jax.typing.ArrayLike = 0,
  ) -> tuple[jax.Array, Cache | None]:
    """Maps [B, T, D] to [B, T, D]; the cache has the `start` tokens before."""
    config = self.config
    drop = nn.Dropout(config.dropout, deterministic=not train)
    # CPUs are slow to sum over two axes of tokens.
    x_AxD = x_BxTxD.reshape(-1, config.width)
    h = config.norm('attention_norm')(x_AxD)
    if config.qkv == 'fused':
      qkv = jnp.split(self._linear('qkv')(h), 3, axis=-1)
    else:
      qkv = [self._linear(name)(h) for name in ('query', 'key', 'value')]
    # One axis is split, or merged, at a time: meshes of explicit axes want it.
    heads = (*x_BxTxD.shape[:2], config.heads, -1)
    q, k, v = (part.reshape(x_BxTxD.shape).reshape(heads) for part in qkv)
    if cache is None:
      attended = causal_attention(q, k, v)
    else:
      attended, cache = cache.attend(q, k, v, start)
    h = attended.reshape(x_BxTxD.shape).reshape(x_AxD.shape)
    x_AxD += drop(self._linear('out')(h))
    h = nn.gelu(self._linear('mlp_in')(config.norm('mlp_norm')(x_AxD)))
    x_AxD += drop(self._linear('mlp_out')(h))
    return x_AxD.reshape(x_BxTxD.shape), cache


class Transformer(nn.Module):
  """Tokens [B, T] to logits [B, T, V].

  Attributes:
    vocabulary: V, the number of distinct tokens.
    config: the architecture.

  Example:
    >>> model = Transformer(vocabulary=65)
    >>> tokens = jnp.zeros((1, 128), jnp.int32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    433152
  """

  vocabulary: int
  config: TransformerConfig = TransformerConfig()

  def __call__(
    self, tokens_BxT: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """Maps tokens to logits; `train` turns dropout on (rng `dropout`)."""
    logits_BxTxV, _ = self._run(tokens_BxT, train)
    return logits_BxTxV

  def extend(
    self,
    tokens_BxT: jax.Array,
    cache: dict[str, Cache],
    start: jax.typing.ArrayLike,
  ) -> tuple[jax.Array, dict[str, Cache]]:
    """Logits [B, T, V] of tokens that follow others, and the cache with them.

    Args:
      tokens_BxT: as many as there are places left in the context.
      cache: of `empty_cache`, or as it was returned.
      start: how many tokens went before.
    """
    return self._run(tokens_BxT, False, cache, start)

  def empty_cache(self, samples: int) -> dict[str, Cache]:
    """The cache of B samples before their first token, by block."""
    config = self.config
    size = config.width // config.heads
    shape: tuple[int, ...] = (samples, config.heads, config.context, size)
    if config.scan:
      shape = (config.layers, *shape)
    names = {config.block_name(layer) for layer in range(config.layers)}
    return {name: Cache.empty(shape, config.dtype) for name in sorted(names)}

  @nn.compact
  def _run(
    self, tokens_BxT: jax.Array, train: bool, cache: Any = None, start: Any = 0
  ) -> tuple[jax.Array, Any]:
    config = self.config
    length = tokens_BxT.shape[1]
    if length > config.context:
      raise ValueError(
        f'tokens: expected at most {config.context} a sequence, got {length}.'
      )
    embed_init = nn.initializers.normal(0.02)
    x_BxTxD = nn.Embed(
      self.vocabulary,
      config.width,
      dtype=config.dtype,
      embedding_init=embed_init,
      name='embed',
    )(tokens_BxT)
    positions = self.param(
      'positions', embed_init, (config.context, config.width)
    )
    positions_TxD = jax.lax.dynamic_slice_in_dim(positions, start, length)
    x_BxTxD += positions_TxD[None].astype(config.dtype)
    x_BxTxD = nn.Dropout(config.dropout, deterministic=not train)(x_BxTxD)
    x_BxTxD, cache = self._blocks(x_BxTxD, train, cache, start)
    x_BxTxD = config.norm('final_norm')(x_BxTxD)
    logits_BxTxV = nn.Dense(
      self.vocabulary,
      use_bias=False,
      dtype=config.dtype,
      dot_general=matrix_product,
      name='head',
    )(x_BxTxD)
    return logits_BxTxV.astype(jnp.float32), cache

  def _blocks(
    self, x_BxTxD: jax.Array, train: bool, cache: Any, start: Any
  ) -> tuple[jax.Array, Any]:
    config = self.config
    block = Block
    if config.remat:
      # Within a scan nothing can be merged with the first computation.
      block = nn.remat(Block, static_argnums=2, prevent_cse=not config.scan)
    caches = dict(cache or {})
    if not config.scan:
      for layer in range(config.layers):
        name = config.block_name(layer)
        x_BxTxD, caches[name] = block(config, layer, name=name)(
          x_BxTxD, train, caches.get(name), start
        )
      return x_BxTxD, caches

    def body(stacked: nn.Module, x_BxTxD: jax.Array, own: Any) -> Any:
      return stacked(x_BxTxD, train, own, start)

    scan = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      length=config.layers,
    )
    stacked = block(config, 0, name=SCANNED)
    x_BxTxD, caches[SCANNED] = scan(stacked, x_BxTxD, caches.get(SCANNED))
    return x_BxTxD, caches
