"""`LowRankDense`: the baseline, its kernel a product of two thin factors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from spectral_jax.layers.initializers import Initializer
from spectral_jax.layers.product import contract


def _factor_init(
  kernel_init: Initializer, kernel_shape: tuple[int, int], rank: int
) -> Initializer:
  """Normal factors whose product has the variance of `kernel_init`'s kernels.

  An entry of the product sums `rank` products of two factor entries, so each
  factor gets the variance σ/√rank, σ being the kernel's standard deviation.
  """

  def init(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
  ) -> jax.Array:
    kernel_key, factor_key = jax.random.split(key)
    deviation = jnp.std(kernel_init(kernel_key, kernel_shape, dtype))
    scale = jnp.sqrt(deviation) * rank**-0.25
    return (jax.random.normal(factor_key, shape) * scale).astype(dtype)

  return init


class LowRankDense(nn.Module):
  """A linear layer whose kernel is `down @ up`, [N, rank] times [rank, M].

  It stores rank·(N + M) numbers; the kernel is never formed.

  Attributes:
    features: M, the number of output features.
    rank: the largest rank of the kernel.
    use_bias: whether to add a bias.
    dtype: of the computation; by default inferred from input and params.
    param_dtype: of the factors and the bias.
    kernel_init: for a kernel [N, M]; the product of the factors has its
      variance at initialisation.

  Raises:
    ValueError: if the rank is not between 1 and min(N, M).

  Example:
    >>> layer = LowRankDense(features=4, rank=2)
    >>> params = layer.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree_util.tree_map(jnp.shape, params)
    {'params': {'bias': (4,), 'down': (3, 2), 'up': (2, 4)}}
  """

  features: int
  rank: int
  use_bias: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [..., N] to [..., features]."""
    shape = (jnp.shape(inputs)[-1], self.features)
    if not 1 <= self.rank <= min(shape):
      raise ValueError(
        f'rank: expected 1 to {min(shape)} for a {shape[0]}×{shape[1]} kernel, '
        f'got {self.rank}.'
      )
    init = _factor_init(self.kernel_init, shape, self.rank)
    down = self.param('down', init, (shape[0], self.rank), self.param_dtype)
    up = self.param('up', init, (self.rank, shape[1]), self.param_dtype)
    bias = None
    if self.use_bias:
      bias = self.param(
        'bias', nn.initializers.zeros, (self.features,), self.param_dtype
      )
    inputs, down, up, bias = promote_dtype(
      inputs, down, up, bias, dtype=self.dtype
    )
    last = (inputs.ndim - 1,)
    return contract(
      contract(inputs, down, None, axis=last), up, bias, axis=last
    )
