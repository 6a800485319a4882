"""Initial coefficients give kernels of the variance that was asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.layers.initializers import Initializer, coefficients_init
from spectral_jax.layers.spectral_kernel import SpectralKernel


@pytest.mark.parametrize(
  ('kind', 'keep', 'kernel_init', 'variance'),
  [
    *(
      (kind, keep, nn.initializers.lecun_normal(), 1 / 192)
      for kind in KINDS
      for keep in (1 / 16, 0.5)
    ),
    ('random', 0.5, nn.initializers.glorot_uniform(), 2 / (192 + 256)),
  ],
)
def test_the_rebuilt_kernel_has_the_variance_asked_for(
  kind: str, keep: float, kernel_init: Initializer, variance: float
) -> None:
  selection = Selection.of(kind, (192, 256), keep)
  init = coefficients_init(kernel_init, SpectralKernel(selection))
  coefficients = init(jax.random.key(0), selection.layout)
  kernel = np.asarray(kernel_from_coefficients(coefficients, selection))
  # A mean of K independent squares: four standard deviations.
  tolerance = 4 * (2 / selection.count) ** 0.5
  assert np.mean(kernel**2) == pytest.approx(variance, rel=tolerance)


@pytest.mark.parametrize('kind', KINDS)
def test_full_k_is_the_kernel_that_was_drawn(kind: str) -> None:
  kernel_init = nn.initializers.lecun_normal()
  selection = Selection.of(kind, (32, 48), 1.0)
  key = jax.random.key(5)
  coefficients = coefficients_init(kernel_init, SpectralKernel(selection))(
    key, selection.layout
  )
  np.testing.assert_allclose(
    kernel_from_coefficients(coefficients, selection),
    kernel_init(key, (32, 48)),
    atol=1e-6,
  )


def test_the_dtype_is_that_asked_for() -> None:
  selection = Selection.of('random', (8, 8), 0.5)
  init = coefficients_init(
    nn.initializers.lecun_normal(), SpectralKernel(selection)
  )
  drawn = init(jax.random.key(0), (32,), jnp.bfloat16)
  assert drawn.dtype == jnp.bfloat16


def test_another_shape_raises() -> None:
  selection = Selection.of('random', (8, 8), 0.5)
  init = coefficients_init(
    nn.initializers.lecun_normal(), SpectralKernel(selection)
  )
  with pytest.raises(ValueError, match=r'^shape: .*\(32,\), got \(8, 8\)'):
    init(jax.random.key(0), (8, 8))
