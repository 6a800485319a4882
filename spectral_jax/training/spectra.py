"""Where in the spectrum a model's kernels have their energy.

Shapes: kernel [N, M]; coefficients in the layout of their selection.
"""

from typing import Any

import jax
import numpy as np
import scipy.fft

from spectral_jax.core.selection import Selection
from spectral_jax.models.transformer import TransformerConfig


def _plane(
  layer: dict[str, jax.Array], config: TransformerConfig, name: str, seed: int
) -> np.ndarray:
  """Coefficients of one layer on the plane [N, M], NaN where none is kept."""
  if 'coefficients' not in layer:
    kernel = (
      layer['kernel'] if 'kernel' in layer else layer['down'] @ layer['up']
    )
    return np.asarray(scipy.fft.dctn(np.asarray(kernel), norm='ortho'))
  selection = config.linear.select(config.kernel_shapes()[name], seed)
  stored = np.ravel(layer['coefficients'])
  plane = np.full(selection.shape, np.nan, np.float32)
  # A coefficient that was dropped is zero.
  plane.flat[selection.positions] = np.where(stored == 0, np.nan, stored)
  return plane


def _planes(params: Any, config: TransformerConfig) -> dict[str, np.ndarray]:
  return {
    name: np.stack(
      [
        _plane(
          config.block_params(params, block)[name],
          config,
          name,
          config.seed(block, name),
        )
        for block in range(config.layers)
      ]
    )
    for name in config.kernel_shapes()
  }


def magnitudes(params: Any, config: TransformerConfig) -> dict[str, np.ndarray]:
  """|2D DCT coefficients| of each kind of layer, [blocks, N, M].

  Args:
    params: a transformer's parameters.
    config: its architecture. For kernels that are not spectral, the transform
      of the kernel is taken; for those in a random basis, what is stored.

  Returns:
    By layer name; NaN at positions that a block does not keep, or has dropped.
  """
  return {
    name: np.abs(plane) for name, plane in _planes(params, config).items()
  }


def stable_ranks(
  params: Any, config: TransformerConfig
) -> dict[str, np.ndarray]:
  """The stable rank ‖W‖²_F / ‖W‖² of each kernel, [blocks], by layer name.

  At most the rank of W, and insensitive to small singular values. An
  orthonormal transform leaves it as it is, so that of the plane is taken.
  """
  return {
    name: np.array(
      [
        np.sum(values**2) / values[0] ** 2
        for values in np.linalg.svd(np.nan_to_num(planes), compute_uv=False)
      ]
    )
    for name, planes in _planes(params, config).items()
  }


def energy_below(
  params: Any, config: TransformerConfig, part: float
) -> dict[str, np.ndarray]:
  """The part of each kernel's energy in its lowest frequencies.

  Args:
    params: a transformer's parameters.
    config: its architecture.
    part: of the N·M frequencies, the lowest in the order of `lowpass`.

  Returns:
    By layer name, [blocks]; a kernel without structure has `part`.
  """
  found = {}
  for name, planes in _planes(params, config).items():
    energy = np.nan_to_num(planes).reshape(len(planes), -1) ** 2
    lowest = Selection.of('lowpass', planes.shape[1:], part).positions
    found[name] = energy[:, lowest].sum(1) / energy.sum(1)
  return found
