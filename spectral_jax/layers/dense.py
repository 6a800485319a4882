"""`SpectralDense`: a Flax `Dense` that stores K cosine coefficients."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, PrecisionLike

from spectral_jax.core.selection import Selection
from spectral_jax.layers.initializers import Initializer, coefficients_init
from spectral_jax.layers.product import contract
from spectral_jax.layers.spectral_kernel import SpectralKernel


class SpectralDense(nn.Module):
  """`flax.linen.Dense`, with K of the N·M coefficients of its kernel stored.

  The parameter `coefficients` holds K numbers of the orthonormal 2D DCT of the
  kernel [N, features]; each call rebuilds the kernel by the inverse DCT, all
  other coefficients zero, and computes x W + b. ("Training Transformers in
  Cosine Coefficient Space", arXiv 2604.04440.)

  It takes `nn.Dense`'s arguments, in its order and with its defaults, and needs
  nothing but `params`. With `keep=1.0` it equals `nn.Dense` to float error.

  Under Adam, take `random` or `band` positions (the latter on TPUs, where they
  need no scatter if N divides M or M divides N, and below a quarter, where they
  are the better ones), `scale_by_selection`, and the learning rate of the dense
  layer; at a half or a quarter let it see the gradients of kernels
  (`on_kernels`) where there is room for a dense model's optimizer state. Under
  Muon take `strided`, whose blocks are matrices. The `kernel_init` that is best
  for the dense layer is best here. docs/results.md has the measurements.

  Attributes:
    features: M, the number of output features.
    use_bias: whether to add a bias.
    dtype: of the computation; by default inferred from input and params.
    param_dtype: of the coefficients and the bias.
    precision: of the product x W, see `jax.lax.Precision`. The kernel is
      rebuilt at the highest, unless `method` rounds what it multiplies.
    kernel_init: for a kernel [N, M]; the rebuilt kernel has its variance.
    bias_init: for the bias [M].
    promote_dtype: promotes (inputs, kernel, bias) to a common dtype.
    dot_general: in place of `jax.lax.dot_general`.
    dot_general_cls: makes `dot_general`.
    keep: the fraction of N·M to store (float, 0 < keep ≤ 1), or K (int).
    selection: which coefficients: `random`, `strided`, `band`, `lowpass` or
      `block` (see `Selection`). Give each layer its own `seed` with the first
      three.
    seed: draws the positions.
    method: how the kernel is rebuilt: `idctn` (the definition), `gemm`,
      `gemm_bf16`, `fft` or `gemm_fft`; or how outputs come about without it:
      `factored` transforms inputs and outputs, `folded` adds halves of them and
      multiplies by quarters of the kernel, `fused` does so on a TPU's chip,
      part by part.
      `auto` takes the cheapest for the layer's shapes, its number of tokens and
      the platform, see `plan`; never `fused`; `gemm_bf16`, which rounds, only
      in layers that compute in bfloat16, on GPUs and TPUs. There the quarters
      of `folded` are rebuilt so, too.
    basis: `dct`, or `orthonormal`, a random rotation for experiments.

  Raises:
    ValueError: for a `keep`, `selection`, `method` or `basis` that cannot be.

  Example:
    >>> layer = SpectralDense(features=4, keep=0.5)
    >>> params = layer.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree_util.tree_map(jnp.shape, params)
    {'params': {'bias': (4,), 'coefficients': (6,)}}
  """

  features: int
  use_bias: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  precision: PrecisionLike = None
  kernel_init: Initializer = nn.initializers.lecun_normal()
  bias_init: Initializer = nn.initializers.zeros_init()
  promote_dtype: Any = promote_dtype
  dot_general: Any = None
  dot_general_cls: Any = None
  keep: float = 0.5
  selection: str = 'random'
  seed: int = 0
  method: str = 'auto'
  basis: str = 'dct'

  @nn.nowrap
  def stored(self, inputs: tuple[int, ...]) -> SpectralKernel:
    """What is stored of the kernel, given the shape of the inputs."""
    shape = (inputs[-1], self.features)
    return SpectralKernel(
      Selection.of(self.selection, shape, self.keep, self.seed), self.basis
    )

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [..., N] to [..., features]."""
    stored = self.stored(jnp.shape(inputs))
    coefficients = self.param(
      'coefficients',
      coefficients_init(self.kernel_init, stored),
      stored.layout,
      self.param_dtype,
    )
    own_product = self.dot_general or self.dot_general_cls
    weights, product = stored.weights(
      coefficients,
      self.method,
      inputs,
      self.dtype,
      wants_kernel=own_product is not None,
    )
    bias = None
    if self.use_bias:
      bias = self.param(
        'bias', self.bias_init, (self.features,), self.param_dtype
      )
    inputs, weights, bias = self.promote_dtype(
      inputs, weights, bias, dtype=self.dtype
    )
    return contract(
      inputs,
      weights,
      bias,
      axis=(inputs.ndim - 1,),
      dot_general=product or self.dot_general,
      dot_general_cls=self.dot_general_cls,
      precision=self.precision,
    )
