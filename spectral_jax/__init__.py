"""Training transformers in cosine coefficient space, in JAX and Flax.

The layer, `SpectralDense`, stands where `flax.linen.Dense` stood; the command
line, `python train.py`, trains a transformer that is made of it.
"""

from spectral_jax.core.reconstruct import (
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.find_selections import find_selections
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.training.scaling import scale_by_selection

__all__ = [
  'LowRankDense',
  'Selection',
  'SpectralDense',
  'coefficients_from_kernel',
  'find_selections',
  'kernel_from_coefficients',
  'scale_by_selection',
]
