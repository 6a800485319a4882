"""Coefficients to kernel, and back: W = C_Nᵀ S C_M with K entries of S stored.

Shapes: kernel [N, M]; coefficients in the layout of their selection, K numbers.
"""

import jax
import jax.numpy as jnp

from spectral_jax.core.blocks import place
from spectral_jax.core.dct import idct2
from spectral_jax.core.factored import factored_product
from spectral_jax.core.fast_dct import fast_idct2
from spectral_jax.core.folded import folded_product
from spectral_jax.core.fused import fused_product
from spectral_jax.core.gemm import kernel_by_gemm
from spectral_jax.core.gemm_fft import kernel_by_gemm_fft
from spectral_jax.core.part import Part
from spectral_jax.core.plan import plan
from spectral_jax.core.selection import Selection

# Ways to a kernel; ways from inputs to outputs, which give none; all ways.
KERNEL_METHODS = ('auto', 'idctn', 'gemm', 'gemm_bf16', 'fft', 'gemm_fft')
PRODUCTS = {
  'factored': factored_product,
  'folded': folded_product,
  'fused': fused_product,
}
METHODS = (*KERNEL_METHODS, *PRODUCTS)
# The basis of the others can also be `orthonormal`.
DCT_METHODS = ('idctn', 'fft', 'gemm_fft', *PRODUCTS)


def plane_from_coefficients(
  coefficients: jax.Array, selection: Selection
) -> jax.Array:
  """Lays coefficients out on the plane [N, M], with zeros between them."""
  return place(coefficients, selection, selection.shape)


def check_basis(method: str, basis: str) -> None:
  """Raises ValueError for a method that has no basis but `dct`."""
  if method in DCT_METHODS and basis != 'dct':
    raise ValueError(
      f"method: {method!r} has no basis but 'dct', got {basis!r}; take 'gemm'."
    )


def _floats(name: str, values: jax.typing.ArrayLike) -> jax.Array:
  array = jnp.asarray(values)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f'{name}: expected floats, got {array.dtype}.')
  return array


def kernel_from_coefficients(
  coefficients: jax.typing.ArrayLike,
  selection: Selection,
  method: str = 'auto',
  basis: str = 'dct',
  part: Part | None = None,
) -> jax.Array:
  """Rebuilds the kernel: the inverse 2D DCT of the zero-padded coefficients.

  Computes in float32 or better and returns the dtype of the coefficients.

  Args:
    coefficients: array of shape `selection.layout`, K numbers.
    selection: the positions of the coefficients, and the kernel's shape [N, M].
    method: `idctn` is the definition; `gemm` multiplies by cosine bases; `fft`
      transforms the plane by one real FFT; `gemm_fft` does the one along the
      shorter side and the other along the longer; `auto` takes the cheapest of
      these three, see `plan`. `gemm_bf16` rounds what it multiplies to
      bfloat16, as a TPU does where it is asked for no more: for models that
      compute in bfloat16 and round the kernel anyway.
    basis: `dct`, or `orthonormal`: in place of the cosines, a random rotation
      of each side, a control that shows what the frequencies are worth.
    part: the rows or columns to rebuild; by default all.

  Returns:
    The kernel [N, M], or the part of it.

  Raises:
    ValueError: for coefficients of another shape or that are no floats, an
      unknown method or basis, or parts that are not equal.

  Example:
    >>> selection = Selection.of('lowpass', (6, 8), keep=0.5)
    >>> kernel_from_coefficients(jnp.ones(selection.layout), selection).shape
    (6, 8)
  """
  if method not in KERNEL_METHODS:
    raise ValueError(
      f'method: expected one of {", ".join(KERNEL_METHODS)}, got {method!r}.'
    )
  check_basis(method, basis)
  coefficients = _floats('coefficients', coefficients)
  if coefficients.shape != selection.layout:
    raise ValueError(
      f'coefficients: expected shape {selection.layout} for {selection}, got '
      f'{coefficients.shape}.'
    )
  wide = coefficients.astype(jnp.promote_types(coefficients.dtype, jnp.float32))
  if method == 'auto':
    method = plan(selection, basis=basis, whole=part is None).method
  if method in ('gemm', 'gemm_bf16'):
    in_bf16 = method == 'gemm_bf16'
    kernel = kernel_by_gemm(wide, selection, basis, part, in_bf16)
    return kernel.astype(coefficients.dtype)
  kernel = _whole_kernel(wide, selection, method)
  kernel = kernel if part is None else part.cut(kernel, part.axis)
  return kernel.astype(coefficients.dtype)


def _whole_kernel(
  coefficients: jax.Array, selection: Selection, method: str
) -> jax.Array:
  if method == 'gemm_fft':
    return kernel_by_gemm_fft(coefficients, selection)
  plane = plane_from_coefficients(coefficients, selection)
  return idct2(plane) if method == 'idctn' else fast_idct2(plane)


def coefficients_from_kernel(
  kernel: jax.typing.ArrayLike,
  selection: Selection,
  method: str = 'auto',
  basis: str = 'dct',
) -> jax.Array:
  """The 2D DCT of a kernel [N, M] at the kept positions.

  It is the adjoint of `kernel_from_coefficients`, and, the basis being
  orthonormal, its inverse on the kernels that the selection can represent and
  the least-squares projection onto them for all others.

  Args:
    kernel: array of shape `selection.shape`, [N, M].
    selection: the positions that are kept.
    method: as for `kernel_from_coefficients`.
    basis: likewise.

  Returns:
    The coefficients, of shape `selection.layout`.

  Raises:
    ValueError: for a kernel of another shape or that is no floats, or an
      unknown method or basis.

  Example:
    >>> selection = Selection.of('block', (4, 4), keep=4)
    >>> coefficients_from_kernel(jnp.ones((4, 4)), selection).round(3).tolist()
    [4.0, 0.0, 0.0, 0.0]
  """
  kernel = _floats('kernel', kernel)
  if kernel.shape != selection.shape:
    raise ValueError(
      f'kernel: expected shape {selection.shape}, got {kernel.shape}.'
    )
  project = jax.linear_transpose(
    lambda c: kernel_from_coefficients(c, selection, method, basis),
    jax.ShapeDtypeStruct(selection.layout, kernel.dtype),
  )
  (coefficients,) = project(kernel)
  return coefficients
