"""Training transformers in cosine coefficient space, in JAX and Flax.

The layer, `SpectralDense`, stands where `flax.linen.Dense` stood; `spectralize`
puts it there by rules, in models whose code stays as it is; `spectral_jax.nnx`
has the same for Flax NNX. The command line, `python train.py`, trains a
transformer that is made of it, and `python -m spectral_jax` works on the run.
"""

from spectral_jax.convert.project import (
  match_layers,
  projection_errors,
  to_dense,
  to_spectral,
)
from spectral_jax.convert.resize import resize, with_keep
from spectral_jax.core.reconstruct import (
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import Selection
from spectral_jax.export.loading import load_exported
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.find_layers import find_layers, find_selections
from spectral_jax.layers.layer_table import layer_table
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.layers.rules import Rule
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.layers.swap import Spectralized, spectralize
from spectral_jax.models.generate import generate
from spectral_jax.models.weights import place_weights
from spectral_jax.training.kernels import on_kernels
from spectral_jax.training.scaling import scale_by_selection

__all__ = [
  'LowRankDense',
  'Rule',
  'Selection',
  'SpectralDense',
  'SpectralDenseGeneral',
  'SpectralKernel',
  'Spectralized',
  'coefficients_from_kernel',
  'find_layers',
  'find_selections',
  'generate',
  'kernel_from_coefficients',
  'layer_table',
  'load_exported',
  'match_layers',
  'on_kernels',
  'place_weights',
  'projection_errors',
  'resize',
  'scale_by_selection',
  'spectralize',
  'to_dense',
  'to_spectral',
  'with_keep',
]
