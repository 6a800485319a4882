"""`SpectralLinear`: an NNX `Linear` that stores K cosine coefficients."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as default_promote_dtype
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import (
  DotGeneralT,
  Dtype,
  Initializer,
  PrecisionLike,
  PromoteDtypeFn,
)

from spectral_jax.layers.linear_general_nnx import (
  NO_METADATA,
  SpectralLinearGeneral,
)


class SpectralLinear(SpectralLinearGeneral):
  """`flax.nnx.Linear`, with K of the N·M coefficients of its kernel stored.

  The parameter `coefficients` holds K numbers of the orthonormal 2D DCT of the
  kernel [N, M]; each call rebuilds the kernel by the inverse DCT, all other
  coefficients zero, and computes x W + b. On the same parameters it is
  `SpectralDense`, bit for bit; with `keep=1.0` it equals `nnx.Linear` to float
  error. It is the `SpectralLinearGeneral` of the last axis.

  It takes `nnx.Linear`'s arguments, in its order and with its defaults, and
  then `keep`, `selection`, `seed`, `method` and `basis`; those, and the
  attributes, are explained at `SpectralLinearGeneral`.

  Args:
    in_features: N, the number of input features.
    out_features: M, the number of output features.

  Raises:
    ValueError: for a `keep`, `selection`, `method` or `basis` that cannot be.

  Example:
    >>> layer = SpectralLinear(3, 4, keep=0.5, rngs=nnx.Rngs(0))
    >>> layer.coefficients.shape, layer(jnp.ones((2, 3))).shape
    ((6,), (2, 4))
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
    precision: PrecisionLike = None,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = default_bias_init,
    dot_general: DotGeneralT = jax.lax.dot_general,
    promote_dtype: PromoteDtypeFn = default_promote_dtype,
    preferred_element_type: Dtype | None = None,
    rngs: nnx.Rngs,
    kernel_metadata: Mapping[str, Any] = NO_METADATA,
    bias_metadata: Mapping[str, Any] = NO_METADATA,
    keep: float = 0.5,
    selection: str = 'random',
    seed: int = 0,
    method: str = 'auto',
    basis: str = 'dct',
  ):
    super().__init__(
      in_features,
      out_features,
      use_bias=use_bias,
      dtype=dtype,
      param_dtype=param_dtype,
      kernel_init=kernel_init,
      bias_init=bias_init,
      precision=precision,
      promote_dtype=promote_dtype,
      dot_general=dot_general,
      preferred_element_type=preferred_element_type,
      rngs=rngs,
      kernel_metadata=kernel_metadata,
      bias_metadata=bias_metadata,
      keep=keep,
      selection=selection,
      seed=seed,
      method=method,
      basis=basis,
    )
    self.in_features = in_features
    self.out_features = out_features
