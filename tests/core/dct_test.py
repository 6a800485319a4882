"""The cosine basis against SciPy's DCT in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from spectral_jax.core import dct

SIZES = [1, 2, 3, 7, 16, 31, 1024]  # all below the in-graph basis


def scipy_basis(size: int) -> np.ndarray:
  return scipy.fft.dct(np.eye(size), norm='ortho', axis=0)


@pytest.mark.parametrize('size', [*SIZES, 1031])
def test_the_basis_equals_scipys_and_is_orthonormal(size: int) -> None:
  basis = dct.dct_basis(size)
  assert basis.dtype == jnp.float32
  np.testing.assert_allclose(basis, scipy_basis(size), atol=1e-6)
  wide = np.asarray(basis, np.float64)
  np.testing.assert_allclose(wide @ wide.T, np.eye(size), atol=2e-6)


@pytest.mark.parametrize('size', [1, 2, 31])
def test_the_in_graph_basis_equals_scipys(size: int) -> None:
  basis = dct.computed_basis(size, np.arange(size), jnp.dtype('float32'), size)
  np.testing.assert_allclose(basis, scipy_basis(size), atol=1e-6)


def test_in_64_bit_mode_the_in_graph_basis_is_as_exact() -> None:
  with jax.enable_x64(True):
    basis = dct.computed_basis(12, np.arange(12), jnp.dtype('float64'), 12)
    np.testing.assert_allclose(basis, scipy_basis(12), atol=1e-15)


def test_large_phases_are_reduced_without_loss() -> None:
  # Not reduced, the last rows of this basis would err by 1e-3.
  last = np.array([4090, 4095])
  basis = dct.dct_basis(4096, last)
  unit = np.arange(4096) == last[:, None]
  np.testing.assert_allclose(
    basis, scipy.fft.idct(unit.astype(np.float64), norm='ortho'), atol=1e-6
  )


@pytest.mark.parametrize('largest_constant', [1024, 4])
def test_rows_are_chosen_by_frequency(
  largest_constant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(dct, '_LARGEST_CONSTANT', largest_constant)
  frequencies = np.array([[0, 5], [11, 3]])
  rows = dct.dct_basis(12, frequencies)
  assert rows.shape == (2, 2, 12)
  np.testing.assert_allclose(rows, scipy_basis(12)[frequencies], atol=1e-6)


@pytest.mark.parametrize('largest_constant', [1024, 4])
def test_the_dtype_is_kept_in_64_bit_mode(
  largest_constant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(dct, '_LARGEST_CONSTANT', largest_constant)
  with jax.enable_x64(True):
    assert dct.dct_basis(9).dtype == jnp.float32
    basis = dct.dct_basis(9, dtype=jnp.dtype('float64'))
    assert basis.dtype == jnp.float64
    np.testing.assert_allclose(basis, scipy_basis(9), atol=1e-14)


def test_idct2_equals_scipys_idctn() -> None:
  plane = np.random.default_rng(0).normal(size=(7, 4))
  expected = scipy.fft.idctn(plane, norm='ortho')
  kernel = dct.idct2(jnp.asarray(plane, jnp.float32))
  np.testing.assert_allclose(kernel, expected, atol=1e-5)


@pytest.mark.parametrize('size', [0, -1, 32769])
def test_impossible_sizes_raise(size: int) -> None:
  with pytest.raises(ValueError, match=f'^size: expected .*, got {size}'):
    dct.dct_basis(size)
