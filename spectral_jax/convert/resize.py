"""Elastic K: coefficients cut or grown, with their optimizer's moments."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.convert.project import Layers
from spectral_jax.core.selection import Selection
from spectral_jax.layers.spectral_kernel import SpectralKernel


def _sources(old: Selection, new: Selection) -> tuple[np.ndarray, np.ndarray]:
  """Where each new coefficient was, [K'], and whether it was anywhere."""
  place = np.full(old.size, -1)
  place[old.positions] = np.arange(old.count)
  source = place[new.positions]
  return source, source >= 0


def _check(path: str, old: SpectralKernel, new: SpectralKernel) -> None:
  if (old.shape, old.stack, old.basis) != (new.shape, new.stack, new.basis):
    raise ValueError(
      f'{path}: expected the kernel and the basis to stay, got '
      f'{old.shape} in {old.basis} and {new.shape} in {new.basis}.'
    )
  smaller, larger = sorted(
    (old.selection, new.selection), key=lambda s: s.count
  )
  if not np.isin(smaller.positions, larger.positions).all():
    raise ValueError(
      f'{path}: {larger} does not hold the positions of {smaller}; keep the '
      'selection and the seed, and of strided take a K that divides.'
    )


def _layer_of(layers: Layers, names: list[str]) -> str | None:
  """The layer whose leaf this is: the longest ending of its folder's path.

  Parameters lie deeper in {'params': …}, and moments in an optimizer's state.
  """
  endings = ('/'.join(names[k:]) for k in range(len(names) + 1))
  return next((ending for ending in endings if ending in layers), None)


def resize(tree: Any, old: Layers, new: Layers) -> Any:
  """Cuts or grows the coefficients of layers to another K.

  Selections are nested, so the coefficients of a smaller K are among those of a
  larger one. A layer that is cut computes what remains of it; one that is grown
  computes what it did, for the new coefficients are zero. In an optimizer's
  state the moments go with their coefficients, and those of new ones are zero.
  (Adam's first steps on the new ones are then longer than on the old, by up to
  about √((1 − b1)² / (1 − b2)) for some tens of steps.)

  Args:
    tree: parameters, an optimizer's state, or a train state that holds both:
      any tree with leaves at …/PATH/coefficients.
    old: what all its spectral layers store, by `find_layers`.
    new: what they are to store; layers that it lacks stay as they are.

  Returns:
    The tree, with coefficients, and what has their shape, resized. An
    optimizer's numbers for a whole layer stay, and so do its kernel's moments
    (`on_kernels`).

  Raises:
    ValueError: for a layer whose selection is another, not only its K; one
      whose coefficients are not in the tree; a state that follows the
      coefficients in a way of its own, as Adafactor's.

  Example:
    >>> four, two = (Selection.of('lowpass', (4, 4), keep=k) for k in (4, 2))
    >>> params = {'mlp': {'coefficients': jnp.arange(4.0)}}
    >>> old, new = ({'mlp': SpectralKernel(s)} for s in (four, two))
    >>> cut = resize(params, old, new)
    >>> cut['mlp']['coefficients'].tolist()
    [0.0, 1.0]
    >>> resize(cut, new, old)['mlp']['coefficients'].tolist()
    [0.0, 1.0, 0.0, 0.0]
  """
  for path, kernel in new.items():
    if path not in old:
      raise ValueError(f'{path}: stores no coefficients that could be resized.')
    _check(path, old[path], kernel)
  missing = set(new)

  def resize_leaf(path: Any, leaf: Any) -> Any:
    names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
    if names[-1] == 'value':  # of NNX
      names.pop()
    layer = _layer_of(old, names[:-1])
    if names[-1] != 'coefficients' or layer is None or layer not in new:
      return leaf
    before, after = old[layer], new[layer]
    shape = jnp.shape(leaf)
    if shape != before.layout:
      if math.prod(shape) == 1:
        return leaf
      raise ValueError(
        f'{layer}: expected shape {before.layout}, got {shape}; an optimizer '
        'that follows the coefficients in a way of its own starts anew.'
      )
    missing.discard(layer)
    source, was = _sources(before.selection, after.selection)

    def pick(coefficients: jax.Array) -> jax.Array:
      picked = jnp.where(was, coefficients.ravel()[source], 0)
      return picked.astype(leaf.dtype).reshape(after.selection.layout)

    return after.map_coefficients(pick, leaf)

  resized = jax.tree_util.tree_map_with_path(resize_leaf, tree)
  if missing:
    raise ValueError(
      f'tree: there are no coefficients of {", ".join(sorted(missing))} in it.'
    )
  return resized


def with_keep(layers: Layers, keep: float) -> dict[str, SpectralKernel]:
  """The same layers with another K.

  Args:
    layers: by `find_layers` or `match_layers`.
    keep: the fraction of N·M (float, 0 < keep ≤ 1), or K (int).

  Raises:
    ValueError: if a layer cannot store so many.

  Example:
    >>> half = SpectralKernel(Selection.of('lowpass', (4, 4), keep=0.5))
    >>> with_keep({'mlp': half}, 0.25)['mlp'].selection.count
    4
  """
  return {
    path: dataclasses.replace(
      kernel,
      selection=Selection.of(
        kernel.selection.kind,
        kernel.selection.shape,
        keep,
        kernel.selection.seed,
      ),
    )
    for path, kernel in layers.items()
  }
