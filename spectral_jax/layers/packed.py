"""A spectral layer to infer with: its coefficients packed, and no kernel."""

import dataclasses

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from spectral_jax.core.packed import Packed, packed_product, packed_shapes
from spectral_jax.layers.initializers import Initializer
from spectral_jax.layers.linear import LinearConfig


class PackedDense(nn.Module):
  """What `SpectralDense` computes, from `Packed` parameters of its own names.

  Attributes:
    features: M, the number of output features.
    linear: what was stored.
    seed: drew the positions.
    dtype: of the computation.
  """

  features: int
  linear: LinearConfig
  seed: int
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [..., N] to [..., features]."""
    selection = self.linear.select((inputs.shape[-1], self.features), self.seed)
    packed = Packed(
      *(
        self.param(name, nn.initializers.zeros, shape.shape, shape.dtype)
        for name, shape in packed_shapes(selection)._asdict().items()
      )
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    inputs, bias = promote_dtype(inputs, bias, dtype=self.dtype)
    inputs_TxN = inputs.reshape(-1, inputs.shape[-1])
    outputs_TxM = packed_product(inputs_TxN, packed, self.features)
    outputs_TxM += bias[None]
    return outputs_TxM.reshape(*inputs.shape[:-1], self.features)


@dataclasses.dataclass(frozen=True)
class PackedConfig(LinearConfig):
  """Makes `PackedDense` of what a `LinearConfig` stored."""

  def make(
    self,
    features: int,
    *,
    seed: int,
    dtype: Dtype | None = None,
    kernel_init: Initializer,
    name: str,
  ) -> nn.Module:
    """The layer, computing in `dtype`; it is not to be initialised."""
    del kernel_init
    return PackedDense(features, self, seed, dtype, name=name)
