"""The layer without its kernel: x W = ((x C_Nᵀ) S) C_M.

Inputs are transformed, multiplied by what is stored, and transformed back, so
that neither the kernel nor its gradient is ever there: the products cost B·R·C
multiplications a token in place of N·M, and the transforms, by FFT, next to
nothing where few tokens or small sizes do not make them dear.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

import jax
import jax.numpy as jnp

from spectral_jax.core.blocks import place
from spectral_jax.core.fast_dct import dct, idct
from spectral_jax.core.selection import Selection


def factored_product(
  inputs_TxN: jax.Array,
  coefficients: jax.Array,
  selection: Selection,
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies inputs by the kernel of coefficients, which is not built.

  The transforms are computed in float32 or better, the product between them in
  the inputs' dtype.

  Args:
    inputs_TxN: floats.
    coefficients: floats of shape `selection.layout`.
    selection: their positions, of the basis `dct`.
    precision: of the product, see `jax.lax.Precision`.

  Returns:
    Outputs [T, M], of that dtype.

  Example:
    >>> selection = Selection.of('strided', (4, 6), keep=0.5)
    >>> x, c = jnp.ones((2, 4)), jnp.ones(selection.layout)
    >>> factored_product(x, c, selection).shape
    (2, 6)
  """
  dtype = inputs_TxN.dtype
  coefficients = coefficients.astype(dtype)
  wide = jnp.promote_types(dtype, jnp.float32)
  tokens, (_, features) = len(inputs_TxN), selection.shape
  rows, columns = selection.frequencies
  frequencies_TxN = dct(inputs_TxN.astype(wide)).astype(dtype)
  if selection.kind == 'strided':
    b, r, _ = selection.layout
    outputs_TxCxB = jnp.einsum(
      'trb,brc->tcb',
      frequencies_TxN.reshape(tokens, r, b),
      coefficients,
      precision=precision,
    )
    # Block 0 has the columns j ≡ −o (mod b).
    outputs_TxCxB = jnp.roll(outputs_TxCxB, int(columns[0, 0]), axis=2)
    outputs_TxM = outputs_TxCxB.reshape(tokens, features)
  else:
    box_RxC = place(coefficients, selection, (rows.size, columns.size))
    low_TxR = frequencies_TxN[:, : rows.size]
    outputs_TxC = jnp.dot(low_TxR, box_RxC, precision=precision)
    outputs_TxM = jnp.pad(outputs_TxC, ((0, 0), (0, features - columns.size)))
  return idct(outputs_TxM.astype(wide)).astype(dtype)
