"""Spectral layers for Flax NNX, and the way to put them in any model.

`SpectralLinear` stands where `flax.nnx.Linear` stood, `SpectralLinearGeneral`
where `flax.nnx.LinearGeneral` stood; `spectralize` puts them there by rules.
"""

from spectral_jax.layers.linear_general_nnx import SpectralLinearGeneral
from spectral_jax.layers.linear_nnx import SpectralLinear
from spectral_jax.layers.swap_nnx import densify, find_layers, spectralize

__all__ = [
  'SpectralLinear',
  'SpectralLinearGeneral',
  'densify',
  'find_layers',
  'spectralize',
]
