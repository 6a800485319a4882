"""Pallas kernels for TPU: products with W = Σ LᵀSR, panel by panel of columns.

A panel of W, or of its gradient, is in on-chip memory alone. The grid goes over
panels; for each it takes first as many steps as there are chunks of rows of
coefficients, each of which adds its share to the panel, and then a step for
each tile of tokens, which meets the panel; backward the other way round. What a
step does not need keeps its place in the pipeline, so that it is not read
again.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from spectral_jax.core.tiles import LANES, VMEM_BYTES, choose_tiles, up


def _filled(array: jax.Array, tiles: Sequence[int]) -> jax.Array:
  """With zeros behind each axis, up to a multiple of a tile."""
  pads = [
    (0, up(s, tile) - s) for s, tile in zip(array.shape, tiles, strict=True)
  ]
  return jnp.pad(array, pads)


def _divide(step: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
  # `divmod` asks for signs, and how a TPU of this machine computes them.
  return jax.lax.div(step, by), jax.lax.rem(step, by)


def multiply(
  inputs_TxN: jax.Array,
  block_BxRxC: jax.Array,
  left_BxRxN: jax.Array,
  right_BxCxM: jax.Array,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """The product with a kernel: x Σ LᵀSR, [T, M]; all of one dtype."""
  (t, n), (b, r, c) = inputs_TxN.shape, block_BxRxC.shape
  m, dtype = right_BxCxM.shape[-1], inputs_TxN.dtype
  tiles = choose_tiles(t, (n, m), (b, r, c), dtype, backward=False)
  inputs_TxN = _filled(inputs_TxN, (tiles.tokens, LANES))
  block_BxRxC = _filled(block_BxRxC, (1, tiles.rows, LANES))
  left_BxRxN = _filled(left_BxRxN, (1, tiles.rows, LANES))
  right_BxCxM = _filled(right_BxCxM, (1, LANES, tiles.columns))
  n, c, width = inputs_TxN.shape[1], block_BxRxC.shape[2], tiles.columns
  chunks = block_BxRxC.shape[1] // tiles.rows  # of each block
  build, apply = b * chunks, inputs_TxN.shape[0] // tiles.tokens

  def block(step: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _divide(jnp.minimum(step, build - 1), chunks)

  def token(step: jax.Array) -> jax.Array:
    return jnp.maximum(step - build, 0)

  def kernel(x, s, left, right, y, panel):  # type: ignore[no-untyped-def]
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _() -> None:
      panel[...] = jnp.zeros_like(panel)

    @pl.when(step < build)
    def _() -> None:
      half_RxP = _dot(s[...], right[...], (1, 0)).astype(dtype)
      panel[...] += _dot(left[...], half_RxP, (0, 0))

    @pl.when(step >= build)
    def _() -> None:
      product = _dot(x[...], panel[...].astype(dtype), (1, 0), precision)
      y[...] = product.astype(dtype)

  outputs = pl.pallas_call(
    kernel,
    grid=(right_BxCxM.shape[-1] // width, build + apply),
    in_specs=[
      pl.BlockSpec((tiles.tokens, n), lambda _, s: (token(s), 0)),
      pl.BlockSpec((None, tiles.rows, c), lambda _, s: (*block(s), 0)),
      pl.BlockSpec((None, tiles.rows, n), lambda _, s: (*block(s), 0)),
      pl.BlockSpec((None, c, width), lambda p, s: (block(s)[0], 0, p)),
    ],
    out_specs=pl.BlockSpec((tiles.tokens, width), lambda p, s: (token(s), p)),
    out_shape=_like(
      inputs_TxN, (inputs_TxN.shape[0], right_BxCxM.shape[-1]), dtype
    ),
    scratch_shapes=[pltpu.VMEM((n, width), jnp.float32)],
    compiler_params=_PARAMS,
    cost_estimate=_cost(
      inputs_TxN, left_BxRxN, right_BxCxM, width, block_BxRxC.nbytes
    ),
    name='spectral_multiply',
  )(inputs_TxN, block_BxRxC, left_BxRxN, right_BxCxM)
  return outputs[:t, :m]


def project(
  inputs_TxN: jax.Array,
  gradient_TxM: jax.Array,
  left_BxRxN: jax.Array,
  right_BxCxM: jax.Array,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """The coefficients' gradient: L (xᵀg) Rᵀ, [B, R, C]; all of one dtype."""
  (t, n), (b, r, _) = inputs_TxN.shape, left_BxRxN.shape
  (_, c, m), dtype = right_BxCxM.shape, inputs_TxN.dtype
  tiles = choose_tiles(t, (n, m), (b, r, c), dtype, backward=True)
  inputs_TxN = _filled(inputs_TxN, (tiles.tokens, LANES))
  gradient_TxM = _filled(gradient_TxM, (tiles.tokens, tiles.columns))
  left_BxRxN = _filled(left_BxRxN, (1, tiles.rows, LANES))
  right_BxCxM = _filled(right_BxCxM, (1, LANES, tiles.columns))
  n, width = inputs_TxN.shape[1], tiles.columns
  _, full_c, full_m = right_BxCxM.shape
  chunks = left_BxRxN.shape[1] // tiles.rows
  gather, apply = inputs_TxN.shape[0] // tiles.tokens, b * chunks

  def block(step: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _divide(jnp.maximum(step - gather, 0), chunks)

  def token(step: jax.Array) -> jax.Array:
    return jnp.minimum(step, gather - 1)

  def kernel(x, g, left, right, sums, panel):  # type: ignore[no-untyped-def]
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _() -> None:
      panel[...] = jnp.zeros_like(panel)

    @pl.when((step == 0) & (pl.program_id(0) == 0))
    def _() -> None:
      sums[...] = jnp.zeros_like(sums)

    @pl.when(step < gather)
    def _() -> None:
      panel[...] += _dot(x[...], g[...], (0, 0), precision)

    @pl.when(step >= gather)
    def _() -> None:
      half_RxP = _dot(left[...], panel[...].astype(dtype), (1, 0)).astype(dtype)
      sums[step - gather] += _dot(half_RxP, right[...], (1, 1))

  sums = pl.pallas_call(
    kernel,
    grid=(full_m // width, gather + apply),
    in_specs=[
      pl.BlockSpec((tiles.tokens, n), lambda _, s: (token(s), 0)),
      pl.BlockSpec((tiles.tokens, width), lambda p, s: (token(s), p)),
      pl.BlockSpec((None, tiles.rows, n), lambda _, s: (*block(s), 0)),
      pl.BlockSpec((None, full_c, width), lambda p, s: (block(s)[0], 0, p)),
    ],
    out_specs=pl.BlockSpec(
      (apply, tiles.rows, full_c),
      lambda *_: (0, 0, 0),
      pipeline_mode=pl.Buffered(1),
    ),
    out_shape=_like(inputs_TxN, (apply, tiles.rows, full_c), jnp.float32),
    scratch_shapes=[pltpu.VMEM((n, width), jnp.float32)],
    compiler_params=_PARAMS,
    cost_estimate=_cost(inputs_TxN, left_BxRxN, right_BxCxM, width),
    name='spectral_project',
  )(inputs_TxN, gradient_TxM, left_BxRxN, right_BxCxM)
  return sums.reshape(b, -1, full_c)[:, :r, :c].astype(dtype)


def _like(
  inputs: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
) -> Any:
  """What varies over the devices of a `shard_map` as the inputs do."""
  return jax.eval_shape(
    lambda x: jnp.broadcast_to(x[0, 0], shape).astype(dtype), inputs
  )


def _cost(
  inputs_TxN: jax.Array,
  left_BxRxN: jax.Array,
  right_BxCxM: jax.Array,
  width: int,
  read: int = 0,
) -> pl.CostEstimate:
  """What the compiler, who cannot look into a kernel, is told of one.

  Each panel reads the inputs and the left bases again, and `read` bytes more.
  """
  (t, n), (b, r, _) = inputs_TxN.shape, left_BxRxN.shape
  _, c, m = right_BxCxM.shape
  outputs = inputs_TxN.dtype.itemsize * t * m
  per_panel = inputs_TxN.nbytes + left_BxRxN.nbytes + read
  return pl.CostEstimate(
    flops=2 * m * (b * r * (c + n) + t * n),
    bytes_accessed=m // width * per_panel + right_BxCxM.nbytes + outputs,
    transcendentals=0,
  )


# Names of one pass on a TPU, among those that JAX has for precisions.
_ONE_PASS = ('none', 'default', 'fastest', 'bfloat16', 'bf16_bf16_f32')

_PARAMS = pltpu.CompilerParams(
  dimension_semantics=('arbitrary', 'arbitrary'), vmem_limit_bytes=VMEM_BYTES
)


def _dot(
  left: jax.Array,
  right: jax.Array,
  axes: tuple[int, int],
  precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST,
) -> jax.Array:
  """A product along an axis of each, summed in float32."""
  (i, j) = axes
  return jax.lax.dot_general(
    left,
    right,
    (((i,), (j,)), ((), ())),
    precision=_passes(left.dtype, precision),
    preferred_element_type=jnp.float32,
  )


def _passes(
  dtype: jnp.dtype, precision: jax.lax.PrecisionLike
) -> jax.lax.Precision:
  """One pass or six: Mosaic knows no others, and one is exact of bfloat16.

  Where none is asked for, JAX's own default counts, as everywhere.
  """
  if precision is None:
    config: Any = jax.config
    precision = config.jax_default_matmul_precision
  one = all(
    str(each).lower() in _ONE_PASS
    for each in (precision if isinstance(precision, tuple) else (precision,))
  )
  if dtype == jnp.bfloat16 or one:
    return jax.lax.Precision.DEFAULT
  return jax.lax.Precision.HIGHEST
