"""The inverse 2D DCT by products along one side, and FFTs along the other.

Along the shorter side few numbers meet in each product; along the longer one
an FFT saves the most. Where the sum of a row's and a column's frequency has one
parity, as in `strided` of an even stride, the kernel turned by 180° is itself,
or its negative: half of the lines are computed, and turned they are the rest.

Shapes: kernel [N, M], of which S is the shorter side and L the longer, along
which lines lie; H of the S lines are computed; B blocks of R×C coefficients, R
of them along S.
"""

import jax
import jax.numpy as jnp

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.blocks import Parity, by_parity
from spectral_jax.core.fast_dct import idct
from spectral_jax.core.selection import Selection


def turns(selection: Selection) -> bool:
  """Whether any kernel turned by 180° is itself or its negative."""
  return selection.stride % 2 == 0


def computed_lines(selection: Selection) -> int:
  """How many lines are computed, H."""
  short = min(selection.shape)
  return short // 2 if turns(selection) else short


def kernel_by_gemm_fft(
  coefficients: jax.Array, selection: Selection
) -> jax.Array:
  """Rebuilds a kernel [N, M] from float32 coefficients in their layout."""
  lines_HxL = _lines(coefficients, selection)
  if turns(selection):
    turned_HxL = lines_HxL[::-1, ::-1]
    turned_HxL = -turned_HxL if selection.offset % 2 else turned_HxL
    lines_HxL = jnp.concatenate([lines_HxL, turned_HxL])
  return lines_HxL.T if _is_tall(selection) else lines_HxL


def quarters_by_gemm_fft(
  coefficients: jax.Array, selection: Selection
) -> dict[Parity, jax.Array]:
  """The quarters [N/2, M/2] of a kernel that `turns`, by their parity."""
  left, right = jnp.split(_lines(coefficients, selection), 2, axis=1)
  right = right[:, ::-1]
  quarters = {
    ((along + selection.offset) % 2, along): quarter
    for along, quarter in enumerate(((left + right) / 2, (left - right) / 2))
  }
  if not _is_tall(selection):
    return quarters
  return {(q, p): quarter.T for (p, q), quarter in quarters.items()}


def _is_tall(selection: Selection) -> bool:
  n, m = selection.shape
  return n > m


def _lines(coefficients: jax.Array, selection: Selection) -> jax.Array:
  """The first H lines, [H, L]."""
  (blocks,) = (
    by_parity(coefficients, selection, (False, False)).apart().values()
  )
  coefficients_BxRxC, across, along = blocks
  if _is_tall(selection):
    coefficients_BxRxC = coefficients_BxRxC.swapaxes(1, 2)
    across, along = along, across
  basis_BxRxH = basis_rows(
    'dct',
    min(selection.shape),
    across,
    coefficients.dtype,
    computed_lines(selection),
  )
  lines_BxHxC = jnp.einsum(
    'brh,brc->bhc',
    basis_BxRxH,
    coefficients_BxRxC,
    precision=jax.lax.Precision.HIGHEST,
  )
  # Blocks take turns along the lines, in the order of their first frequencies.
  lines_BxHxC = jnp.roll(lines_BxHxC, int(along[0, 0]), axis=0)
  b, h, c = lines_BxHxC.shape
  lines_HxL = lines_BxHxC.transpose(1, 2, 0).reshape(h, b * c)
  missing = max(selection.shape) - b * c
  return idct(jnp.pad(lines_HxL, ((0, 0), (0, missing))))
