"""The random basis: orthonormal, the same for ever, and a drop-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core.basis import basis_rows
from spectral_jax.core.dct import dct_basis
from spectral_jax.core.reconstruct import (
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import Selection


@pytest.mark.parametrize('size', [1, 2, 7, 128])
def test_it_is_orthonormal(size: int) -> None:
  basis = basis_rows('orthonormal', size, np.arange(size), jnp.float32)
  np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-5)


def test_it_looks_like_noise() -> None:
  basis = np.asarray(
    basis_rows('orthonormal', 128, np.arange(128), jnp.float32)
  )
  assert abs(np.mean(basis)) < 3 / 128**1.5 * 2
  assert abs(np.mean(basis**4) * 128**2 - 3) < 0.3  # a Gaussian's kurtosis
  assert np.abs(basis @ dct_basis(128).T).max() < 0.6


# A checkpoint must find its basis again: never change this to pass.
def test_it_is_the_same_for_ever() -> None:
  basis = basis_rows('orthonormal', 8, np.arange(8), jnp.float32)
  np.testing.assert_allclose(
    basis[0],
    [0.8379, -0.1025, 0.0328, -0.1538, -0.1895, -0.0703, -0.2752, 0.3823],
    atol=1e-4,
  )


@pytest.mark.parametrize('kind', ['lowpass', 'random', 'strided'])
def test_a_kernel_is_rebuilt_from_it(kind: str) -> None:
  selection = Selection.of(kind, (6, 8), keep=0.5, seed=1)
  coefficients = jnp.asarray(
    np.random.default_rng(0).normal(size=selection.layout), jnp.float32
  )
  kernel = kernel_from_coefficients(
    coefficients, selection, basis='orthonormal'
  )
  plane = np.zeros(selection.shape, np.float32)
  plane.flat[selection.positions] = coefficients.ravel()
  left, right = (
    basis_rows('orthonormal', s, np.arange(s), jnp.float32) for s in (6, 8)
  )
  np.testing.assert_allclose(kernel, left.T @ plane @ right, atol=1e-5)
  np.testing.assert_allclose(
    coefficients_from_kernel(kernel, selection, basis='orthonormal'),
    coefficients,
    atol=1e-5,
  )


def test_what_cannot_be_is_named() -> None:
  selection = Selection.of('random', (4, 4), keep=0.5)
  coefficients = jnp.ones(8)
  with pytest.raises(ValueError, match=r"^basis: expected .*got 'fourier'"):
    kernel_from_coefficients(coefficients, selection, basis='fourier')
  with pytest.raises(ValueError, match=r"^method: 'idctn' has no basis but"):
    kernel_from_coefficients(coefficients, selection, 'idctn', 'orthonormal')
  with pytest.raises(ValueError, match=r'^basis: .* at most 4096 places'):
    jax.eval_shape(
      lambda: basis_rows('orthonormal', 5000, np.arange(3), jnp.float32)
    )
