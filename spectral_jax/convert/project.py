"""Parameter trees of any Flax model: dense to spectral, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from spectral_jax.layers.rules import Rule, check_all_match, first_match
from spectral_jax.layers.spectral_kernel import (
  SpectralKernel,
  flattens_to,
  stack_axes,
)

Layers = Mapping[str, SpectralKernel]


def find_layer(layers: Layers, path: str) -> str | None:
  """The layer of a folder in a tree: its longest ending that is one.

  A tree may have the parameters deeper down, as {'params': …} has, and as an
  optimizer's state has its moments.
  """
  names = path.split('/')
  endings = ('/'.join(names[k:]) for k in range(len(names) + 1))
  return next((ending for ending in endings if ending in layers), None)


def _flatten(params: Any) -> dict[str, Any]:
  flat: dict[str, Any] = traverse_util.flatten_dict(
    nn.meta.unbox(params), sep='/'
  )
  return flat


def _replace(
  params: Any,
  layers: Layers,
  old: str,
  new: str,
  change: Callable[[SpectralKernel, jax.Array], Any],
) -> Any:
  """Puts a leaf `new` in place of each layer's leaf `old`."""
  flat = _flatten(params)
  missing, changed = set(layers), {}
  for path, leaf in flat.items():
    folder, _, name = path.rpartition('/')
    layer = find_layer(layers, folder) if name == old else None
    if layer is None:
      changed[path] = leaf
      continue
    missing.discard(layer)
    try:
      changed[f'{folder}/{new}'.lstrip('/')] = change(layers[layer], leaf)
    except ValueError as error:
      raise ValueError(f'{layer}: {error}') from None
  if missing:
    raise ValueError(
      f'params: expected {old!r} in {", ".join(sorted(missing))}; there is '
      'none.'
    )
  return traverse_util.unflatten_dict(changed, sep='/')


def match_layers(
  params: Any, rules: Sequence[Rule]
) -> dict[str, SpectralKernel]:
  """What layers are to store, by rules on a dense model's parameters alone.

  Where the model is at hand, `find_layers` is the surer way: a kernel of more
  than two axes may be heads, or a stack of layers, and only the model knows;
  here its rule must say the `shape` of the matrix.

  Args:
    params: the parameters of any Flax model, {'params': …} or what is in it.
    rules: the first that matches the path of a `kernel`'s layer counts.

  Returns:
    By path, as `find_layers`.

  Raises:
    ValueError: for a rule that matches nothing, or that a layer cannot follow.

  Example:
    >>> params = {'mlp': {'kernel': jnp.ones((8, 16)), 'bias': jnp.ones(16)}}
    >>> layers = match_layers(params, [Rule('mlp', keep=0.25)])
    >>> layers['mlp'].selection.count
    32
  """
  flat = _flatten(params.get('params', params))
  kernels = {
    path.removesuffix('kernel').rstrip('/'): leaf.shape
    for path, leaf in flat.items()
    if path.split('/')[-1] == 'kernel' and leaf.ndim > 1
  }
  check_all_match(rules, kernels)
  layers = {}
  for path, shape in kernels.items():
    rule = first_match(rules, path)
    if rule is None or rule.keep is None:
      continue
    matrix = rule.shape or shape
    if len(matrix) != 2:
      raise ValueError(
        f'{path}: a kernel {shape} may flatten to several matrices; give the '
        'rule its shape=(N, M).'
      )
    layers[path] = _match(rule, path, shape, matrix)
  return layers


def _match(
  rule: Rule, path: str, shape: tuple[int, ...], matrix: tuple[int, int]
) -> SpectralKernel:
  try:
    stack = stack_axes(shape, lambda one: flattens_to(one, matrix))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return SpectralKernel(rule.select(path, matrix), rule.basis, shape, stack)


def to_spectral(params: Any, layers: Layers) -> Any:
  """Projects kernels onto the coefficients that a spectral model stores.

  Of all kernels that these can represent, the projection is the nearest.

  Args:
    params: the dense model's parameters, {'params': …} or what is in it.
    layers: of the spectral model, by `find_layers` or `match_layers`.

  Returns:
    The spectral model's parameters: `coefficients` in place of `kernel`.

  Raises:
    ValueError: for a layer without a kernel, or one of another shape.

  Example:
    >>> from spectral_jax.layers.find_layers import find_layers
    >>> from spectral_jax.layers.swap import Spectralized
    >>> model, x = nn.Dense(6), jnp.ones((1, 4))
    >>> params = model.init(jax.random.key(0), x)
    >>> spectral = Spectralized(model, [Rule('.*', keep=1.0)])
    >>> projected = to_spectral(params, find_layers(spectral, x))
    >>> bool(jnp.allclose(spectral.apply(projected, x), model.apply(params, x)))
    True
  """
  return _replace(
    params, layers, 'kernel', 'coefficients', SpectralKernel.project
  )


def to_dense(params: Any, layers: Layers) -> Any:
  """Rebuilds the kernels of a spectral model, for the dense one.

  Args:
    params: the spectral model's parameters, {'params': …} or what is in it.
    layers: of the spectral model, by `find_layers` or `match_layers`.

  Returns:
    The dense model's parameters: `kernel` in place of `coefficients`.

  Raises:
    ValueError: for a layer without coefficients, or of another shape.

  Example:
    >>> from spectral_jax.core.selection import Selection
    >>> layer = SpectralKernel(Selection.of('block', (4, 4), keep=4))
    >>> params = {'mlp': {'coefficients': jnp.array([4.0, 0, 0, 0])}}
    >>> to_dense(params, {'mlp': layer})['mlp']['kernel'].round(3)[0].tolist()
    [1.0, 1.0, 1.0, 1.0]
  """
  return _replace(
    params, layers, 'coefficients', 'kernel', SpectralKernel.rebuild
  )


def projection_errors(params: Any, layers: Layers) -> dict[str, float]:
  """What projection loses: ‖W − Ŵ‖ / ‖W‖ of each layer, by path.

  Args:
    params: the dense model's parameters, {'params': …} or what is in it.
    layers: as for `to_spectral`.

  Raises:
    ValueError: for a layer without a kernel, or one of another shape.

  Example:
    >>> from spectral_jax.core.selection import Selection
    >>> layer = SpectralKernel(Selection.of('block', (4, 4), keep=1))
    >>> kernel = jnp.ones((4, 4)).at[0].set(3.0)
    >>> projection_errors({'mlp': {'kernel': kernel}}, {'mlp': layer})
    {'mlp': 0.5}
  """
  errors = {}

  def measure(kernel: SpectralKernel, leaf: jax.Array) -> jax.Array:
    rest = leaf - kernel.rebuild(kernel.project(leaf))
    return jnp.linalg.norm(rest) / jnp.maximum(jnp.linalg.norm(leaf), 1e-30)

  measured = _replace(params, layers, 'kernel', 'error', measure)
  for path, leaf in _flatten(measured).items():
    folder, _, name = path.rpartition('/')
    layer = find_layer(layers, folder)
    if name == 'error' and layer is not None:
      errors[layer] = round(float(leaf), 7)
  return errors
