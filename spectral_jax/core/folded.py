"""The layer by quarters of its kernel: inputs and outputs are folded, not W.

Cosines of even frequency see no more of an input than the sum of it and its
mirror image, those of odd frequency the difference. So sums and differences of
the halves of inputs meet quarters of the kernel, which are never put together,
and what they give is unfolded. Where a block has one parity, `strided` of an
even stride, two of the four quarters are zero: the products with tokens are
half of those of a dense layer.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp

from spectral_jax.core.blocks import Parity, by_parity, foldable
from spectral_jax.core.gemm import sums_of_blocks
from spectral_jax.core.gemm_fft import quarters_by_gemm_fft
from spectral_jax.core.plan import plan_quarters
from spectral_jax.core.selection import Selection
from spectral_jax.core.tall import matmul

# The blocks of one parity, or their quarter of the kernel.
Piece = TypeVar('Piece')


def folded_product(
  inputs_TxN: jax.Array,
  coefficients: jax.Array,
  selection: Selection,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies inputs by the kernel of coefficients, quarter by quarter.

  Quarters are rebuilt by the cheapest of `gemm`, `gemm_fft` and, for inputs in
  bfloat16 and not on CPUs, `gemm_bf16` (see `plan_quarters`): in float32 or
  better but by the last, and then rounded to the inputs' dtype.

  Args:
    inputs_TxN: floats.
    coefficients: floats of shape `selection.layout`.
    selection: their positions, of the basis `dct`. Blocks of an odd stride
      above 1 cannot be folded: they meet the inputs as whole kernels.
    precision: of the product with the inputs, see `jax.lax.Precision`; the
      quarters are rebuilt at the highest, but by `gemm_bf16`.

  Returns:
    Outputs [T, M], of that dtype.

  Example:
    >>> selection = Selection.of('strided', (4, 6), keep=0.5)
    >>> x, c = jnp.ones((2, 4)), jnp.ones(selection.layout)
    >>> folded_product(x, c, selection).shape
    (2, 6)
  """
  wide = jnp.promote_types(coefficients.dtype, jnp.float32)
  method = plan_quarters(selection, inputs_TxN.dtype).method
  quarters = _quarters(coefficients.astype(wide), selection, method)

  def product(x: jax.Array, quarter: jax.Array) -> jax.Array:
    return matmul(x, quarter.astype(x.dtype), precision=precision)

  return by_halves(inputs_TxN, quarters, selection, product)


def _quarters(
  coefficients: jax.Array, selection: Selection, method: str
) -> dict[Parity, jax.Array]:
  """Those of the kernel that are not zero; of an odd stride, all of it."""
  if method == 'gemm_fft':
    return quarters_by_gemm_fft(coefficients, selection)
  halves = foldable(selection, 'dct')
  folds = (halves, halves)
  pieces = by_parity(coefficients, selection, folds)
  in_bf16 = method == 'gemm_bf16'
  return sums_of_blocks(pieces, selection.shape, 'dct', None, in_bf16, folds)


def by_halves(
  inputs_TxN: jax.Array,
  pieces: Mapping[Parity, Piece],
  selection: Selection,
  product: Callable[[jax.Array, Piece], jax.Array],
) -> jax.Array:
  """Folds inputs, multiplies them by the piece of each parity, and unfolds."""
  halves = foldable(selection, 'dct')
  folded = _fold(inputs_TxN) if halves else (inputs_TxN,)
  outputs: dict[int, jax.Array] = {}
  for (p, q), piece in pieces.items():
    added = product(folded[p], piece)
    outputs[q] = outputs[q] + added if q in outputs else added
  return _unfold(outputs, selection.shape[1]) if halves else outputs[0]


def _fold(inputs_TxN: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sums and differences of the first half and the last one, mirrored."""
  n = inputs_TxN.shape[1]
  half = (n + 1) // 2
  first, last = inputs_TxN[:, :half], inputs_TxN[:, half:][:, ::-1]
  last = jnp.pad(last, ((0, 0), (0, n % 2)))  # the middle has no image
  return first + last, first - last


def _unfold(outputs: dict[int, jax.Array], features: int) -> jax.Array:
  """Outputs of even and of odd frequencies to their places, [T, M]."""
  even = outputs.get(0, jnp.zeros_like(next(iter(outputs.values()))))
  odd = outputs.get(1, jnp.zeros_like(even))
  last = (even - odd)[:, : features // 2][:, ::-1]
  return jnp.concatenate([even + odd, last], axis=1)
