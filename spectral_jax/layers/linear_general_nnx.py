"""`SpectralLinearGeneral`: an NNX `LinearGeneral` that stores coefficients.

Shapes: B, I and O are tuples of sizes: batch, input and output features;
N = ∏I and M = ∏O are the sides of the matrix that a kernel flattens to.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core.frozen_dict import FrozenDict
from flax.nnx.nn.dtypes import promote_dtype as default_promote_dtype
from flax.nnx.nn.linear import default_bias_init, default_kernel_init
from flax.typing import (
  DotGeneralT,
  Dtype,
  Initializer,
  PrecisionLike,
  PromoteDtypeFn,
)

from spectral_jax.core.selection import Selection
from spectral_jax.layers.initializers import coefficients_init
from spectral_jax.layers.product import as_tuple, contract, counted_from_front
from spectral_jax.layers.spectral_kernel import SpectralKernel

_NO_BATCH: FrozenDict[int, int] = FrozenDict({})
NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def _is_boxed(value: Any) -> bool:
  return isinstance(value, nnx.VariableMetadata)


def without_axis_names(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """Metadata of a kernel, but for names of its axes: coefficients have none.

  Example:
    >>> without_axis_names({'out_sharding': (None, 'tensor'), 'decay': 0.1})
    {'decay': 0.1}
  """
  names = ('out_sharding', 'sharding', 'sharding_names')
  return {k: v for k, v in metadata.items() if k not in names}


class SpectralLinearGeneral(nnx.Module):
  """`flax.nnx.LinearGeneral`, with K of the N·M coefficients stored.

  The kernel [*B, *I, *O] is, for each place in the batch, a matrix [N, M] of
  N = ∏I inputs and M = ∏O outputs; K numbers of the matrix's orthonormal 2D DCT
  are stored, at the same positions throughout the batch: `coefficients` has the
  shape [*B, *layout]. Each call rebuilds the kernel. On the same parameters it
  is `SpectralDenseGeneral`, bit for bit.

  It takes `nnx.LinearGeneral`'s arguments, in its order and with its defaults,
  draws the random keys in its order, and treats dtypes, promotion, product and
  sharding of outputs in its way. Those that mean the same are not listed here.

  Args:
    in_features: I, the input features, an int or several.
    out_features: O, the output features, an int or several.
    axis: of the inputs, those that are contracted, one for each of I.
    batch_axis: leading axes of the inputs that have a kernel each, 0, 1, …, and
      their sizes.
    kernel_init: for the matrices, [∏B·N, M]; the rebuilt ones have its
      variance. Of `VariableMetadata` the value counts.
    precision: of the product. The kernel is rebuilt at the highest, unless
      `method` rounds what it multiplies.
    kernel_metadata: of the coefficients. What names the kernel's axes
      (`out_sharding`) is dropped: coefficients have no such axes.
    keep: the fraction of N·M to store (float, 0 < keep ≤ 1), or K (int).
    selection: which coefficients, see `Selection`.
    seed: draws the positions; give each layer its own.
    method: how the kernel is rebuilt, or that it is not, see `SpectralDense`.
    basis: `dct`, or `orthonormal`, a random rotation for experiments.

  Attributes:
    coefficients: the parameter, K numbers for each place in the batch.
    bias: the parameter [*B, *O], or None.
    stored: the `SpectralKernel`, which rebuilds the kernel of coefficients.

  Raises:
    ValueError: for a `keep`, `selection`, `method` or `basis` that cannot be,
      `in_features` that are not one for each `axis`, or a `batch_axis` that
      does not lead.

  Example:
    >>> heads = SpectralLinearGeneral(32, (4, 8), keep=0.25, rngs=nnx.Rngs(0))
    >>> heads.coefficients.shape, heads(jnp.ones((2, 32))).shape
    ((256,), (2, 4, 8))
  """

  # One number or several: `SpectralLinear` has one.
  in_features: int | tuple[int, ...]
  out_features: int | tuple[int, ...]

  def __init__(
    self,
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    *,
    axis: int | Sequence[int] = -1,
    batch_axis: Mapping[int, int] = _NO_BATCH,
    use_bias: bool = True,
    dtype: Dtype | None = None,
    param_dtype: Dtype = jnp.float32,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = default_bias_init,
    precision: PrecisionLike = None,
    promote_dtype: PromoteDtypeFn = default_promote_dtype,
    dot_general: DotGeneralT | None = None,
    dot_general_cls: Any = None,
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
    shape_I, shape_O = as_tuple(in_features), as_tuple(out_features)
    self.in_features = shape_I
    self.out_features = shape_O
    self.axis = as_tuple(axis)
    self.batch_axis: FrozenDict[int, int] = FrozenDict(batch_axis)
    self.use_bias = use_bias
    self.dtype = dtype
    self.param_dtype = param_dtype
    self.precision = precision
    self.promote_dtype = promote_dtype
    self.dot_general = dot_general
    self.dot_general_cls = dot_general_cls
    self.preferred_element_type = preferred_element_type
    self.method = method

    if len(shape_I) != len(self.axis):
      raise ValueError(
        f'in_features: expected one for each axis of {self.axis}, got '
        f'{shape_I}.'
      )
    if set(self.batch_axis) != set(range(len(self.batch_axis))):
      raise ValueError(
        'batch_axis: expected leading axes 0, 1, …, got '
        f'{tuple(self.batch_axis)}.'
      )
    shape_B = tuple(self.batch_axis.values())
    matrix = (math.prod(shape_I), math.prod(shape_O))
    self.stored = SpectralKernel(
      Selection.of(selection, matrix, keep, seed),
      basis,
      shape=(*shape_B, *shape_I, *shape_O),
      stack=tuple(range(len(shape_B))),
    )

    def raw_kernel_init(*args: Any) -> Any:
      drawn: Any = kernel_init(*args)
      return drawn.raw_value if _is_boxed(drawn) else drawn

    init = coefficients_init(raw_kernel_init, self.stored)
    coefficients = init(rngs.params(), self.stored.layout, param_dtype)
    # Only traced: a method that cannot be is refused now, not when called.
    jax.eval_shape(
      lambda c: self.stored.weights(c, method, jnp.zeros(matrix[:1]))[0],
      coefficients,
    )
    self.coefficients = nnx.Param(
      coefficients, **without_axis_names(kernel_metadata)
    )
    self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
    if use_bias:
      shape = (*shape_B, *shape_O)
      bias: Any = bias_init(rngs.params(), (math.prod(shape),), param_dtype)
      bias = (
        dataclasses.replace(bias, raw_value=bias.raw_value.reshape(shape))
        if _is_boxed(bias)
        else bias.reshape(shape)
      )
      self.bias = nnx.Param(bias, **bias_metadata)

  def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
    """Maps [*B, …, *I] to [*B, …, *O], sharded so, I being at `axis`."""
    usual = self.dot_general in (None, jax.lax.dot_general)
    weights, product = self.stored.weights(
      self.coefficients[...],
      self.method,
      inputs,
      self.dtype,
      wants_kernel=not usual
      or self.dot_general_cls is not None
      or out_sharding is not None,
    )
    bias = None if self.bias is None else self.bias[...]
    inputs, weights, bias = self.promote_dtype(
      (inputs, weights, bias), dtype=self.dtype
    )
    # Given only when asked for: someone's own product may not know it.
    preferred = {}
    if self.preferred_element_type is not None:
      preferred['preferred_element_type'] = self.preferred_element_type
    return contract(
      inputs,
      weights,
      bias,
      axis=counted_from_front(self.axis, inputs.ndim),
      batch=counted_from_front(tuple(self.batch_axis), inputs.ndim),
      dot_general=product or (None if usual else self.dot_general),
      dot_general_cls=self.dot_general_cls,
      precision=self.precision,
      out_sharding=out_sharding,
      **preferred,
    )
