"""`SpectralDenseGeneral`: a Flax `DenseGeneral` that stores coefficients.

Shapes: B, I and O are tuples of sizes: batch, input and output features;
N = ∏I and M = ∏O are the sides of the matrix that a kernel flattens to.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, PrecisionLike

from spectral_jax.core.selection import Selection
from spectral_jax.layers.initializers import Initializer, coefficients_init
from spectral_jax.layers.product import as_tuple, contract, counted_from_front
from spectral_jax.layers.spectral_kernel import SpectralKernel


class SpectralDenseGeneral(nn.Module):
  """`flax.linen.DenseGeneral`, with K of the N·M coefficients stored.

  The kernel [*B, *I, *O] is, for each place in the batch, a matrix [N, M] of
  N = ∏I inputs and M = ∏O outputs; K numbers of the matrix's orthonormal 2D DCT
  are stored, at the same positions throughout the batch: `coefficients` has the
  shape [*B, *layout]. Everything else is as in `SpectralDense`, whose advice
  holds here too.

  Attributes:
    features: O, the output features, an int or several.
    axis: of the inputs, those that are contracted.
    batch_dims: leading axes of the inputs that have a kernel each, 0, 1, ….
    use_bias: whether to add a bias.
    dtype: of the computation; by default inferred from input and params.
    param_dtype: of the coefficients and the bias.
    kernel_init: for the matrices, [∏B·N, M].
    bias_init: for the bias, flat.
    precision: of the product, see `jax.lax.Precision`. The kernel is rebuilt
      at the highest, unless `method` rounds what it multiplies.
    promote_dtype: promotes (inputs, kernel, bias) to a common dtype.
    dot_general: in place of `jax.lax.dot_general`.
    dot_general_cls: makes `dot_general`.
    keep: the fraction of N·M to store (float, 0 < keep ≤ 1), or K (int).
    selection: which coefficients, see `Selection`.
    seed: draws the positions.
    method: how the kernel is rebuilt, or that it is not, see `SpectralDense`.
    basis: `dct`, or `orthonormal`, a random rotation for experiments.

  Raises:
    ValueError: for a `keep`, `selection`, `method` or `basis` that cannot be,
      or `batch_dims` that do not lead.

  Example:
    >>> heads = SpectralDenseGeneral(features=(4, 8), keep=0.25)
    >>> params = heads.init(jax.random.key(0), jnp.ones((1, 32)))
    >>> jax.tree_util.tree_map(jnp.shape, params)
    {'params': {'bias': (4, 8), 'coefficients': (256,)}}
  """

  features: int | Sequence[int]
  axis: int | Sequence[int] = -1
  batch_dims: Sequence[int] = ()
  use_bias: bool = True
  dtype: Dtype | None = None
  param_dtype: Dtype = jnp.float32
  kernel_init: Initializer = nn.initializers.lecun_normal()
  bias_init: Initializer = nn.initializers.zeros_init()
  precision: PrecisionLike = None
  promote_dtype: Any = promote_dtype
  dot_general: Any = None
  dot_general_cls: Any = None
  keep: float = 0.5
  selection: str = 'random'
  seed: int = 0
  method: str = 'auto'
  basis: str = 'dct'

  @nn.nowrap
  def _axes(self, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The contracted and the batch axes of inputs, none negative, sorted."""
    axis = counted_from_front(self.axis, ndim)
    batch = counted_from_front(self.batch_dims, ndim)
    if batch != tuple(range(len(batch))):
      raise ValueError(
        f'batch_dims: expected leading axes 0, 1, …, got {self.batch_dims}.'
      )
    return axis, batch

  @nn.nowrap
  def stored(self, inputs: tuple[int, ...]) -> SpectralKernel:
    """What is stored of the kernel, given the shape of the inputs."""
    axis, batch = self._axes(len(inputs))
    shape_I = tuple(inputs[a] for a in axis)
    shape_O = as_tuple(self.features)
    matrix = (math.prod(shape_I), math.prod(shape_O))
    return SpectralKernel(
      Selection.of(self.selection, matrix, self.keep, self.seed),
      self.basis,
      shape=(*(inputs[a] for a in batch), *shape_I, *shape_O),
      stack=tuple(range(len(batch))),
    )

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [*B, …, *I] to [*B, …, *O], I being at `axis`."""
    axis, batch = self._axes(jnp.ndim(inputs))
    stored = self.stored(jnp.shape(inputs))
    stack = tuple(inputs.shape[a] for a in batch)
    features = as_tuple(self.features)
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

      def flat_bias_init(key: jax.Array, shape: Any, dtype: Any) -> Any:
        bias = self.bias_init(key, (math.prod(shape),), dtype)
        return meta.replace_boxed(bias, meta.unbox(bias).reshape(shape))

      bias = self.param(
        'bias', flat_bias_init, (*stack, *features), self.param_dtype
      )
    inputs, weights, bias = self.promote_dtype(
      inputs, weights, bias, dtype=self.dtype
    )
    return contract(
      inputs,
      weights,
      bias,
      axis=axis,
      batch=batch,
      dot_general=product or self.dot_general,
      dot_general_cls=self.dot_general_cls,
      precision=self.precision,
    )
