"""Where in the spectrum a model's kernels have their energy.

Shapes: kernel [N, M]; coefficients in the layout of their selection.
"""

from typing import Any

import jax
import numpy as np
import scipy.fft

from spectral_jax.models.transformer import LINEAR_NAMES, TransformerConfig


def _magnitudes(
  layer: dict[str, jax.Array], config: TransformerConfig, name: str, seed: int
) -> np.ndarray:
  """|coefficients| of one layer on the plane [N, M], NaN where none is kept."""
  if 'coefficients' not in layer:
    kernel = (
      layer['kernel'] if 'kernel' in layer else layer['down'] @ layer['up']
    )
    plane = scipy.fft.dctn(np.asarray(kernel), norm='ortho')
    return np.asarray(np.abs(plane))
  selection = config.linear.select(config.kernel_shapes()[name], seed)
  plane = np.full(selection.shape, np.nan, np.float32)
  plane.flat[selection.positions] = np.ravel(np.abs(layer['coefficients']))
  return plane


def magnitudes(params: Any, config: TransformerConfig) -> dict[str, np.ndarray]:
  """|2D DCT coefficients| of each kind of layer, [blocks, N, M].

  Args:
    params: a transformer's parameters.
    config: its architecture. For kernels that are not spectral, the transform
      of the kernel is taken.

  Returns:
    By layer name; NaN at positions that a block does not keep.
  """
  return {
    name: np.stack(
      [
        _magnitudes(
          params[f'block_{block}'][name], config, name, config.seed(block, name)
        )
        for block in range(config.layers)
      ]
    )
    for name in LINEAR_NAMES
  }
