"""Parameter trees of any linen model: dense to spectral, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import FrozenDict

from spectral_jax.layers.rules import Rule, check_all_match, first_match
from spectral_jax.layers.spectral_kernel import (
  SpectralKernel,
  flattens_to,
  stack_axes,
)

Layers = Mapping[str, SpectralKernel]
Keys = tuple[Any, ...]


def _flatten(params: Any) -> tuple[dict[Keys, Any], dict[str, Keys]]:
  """The leaves of a tree by their keys, and the keys by the model's paths.

  The model's parameters are those in {'params': …}, or the whole tree.
  """
  params = nn.meta.unbox(params)
  if not isinstance(params, dict | FrozenDict) or 'opt_state' in params:
    raise ValueError(
      "params: expected the nested dictionary of a linen model's parameters, "
      f'got {type(params).__name__}; of a train state give the params, for an '
      'NNX model see spectral_jax.nnx.'
    )
  leaves = traverse_util.flatten_dict(params, keep_empty_nodes=True)
  root = ('params',) if 'params' in params else ()
  paths = {
    '/'.join(map(str, keys[len(root) :])): keys
    for keys in leaves
    if keys[: len(root)] == root
  }
  return leaves, paths


def _change(
  params: Any,
  layers: Layers,
  name: str,
  change: Callable[[SpectralKernel, jax.Array], Any],
) -> tuple[dict[Keys, Any], dict[Keys, Any]]:
  """The tree without the layers' leaves `name`, and what each is changed to."""
  leaves, paths = _flatten(params)
  changed = {}
  for layer, kernel in layers.items():
    keys = paths.get(f'{layer}/{name}'.lstrip('/'))
    if keys is None or not hasattr(leaves[keys], 'shape'):
      raise ValueError(f'params: expected {name!r} in {layer!r}; it has none.')
    try:
      changed[keys] = change(kernel, leaves.pop(keys))
    except ValueError as error:
      raise ValueError(f'{layer}: {error}') from None
  return leaves, changed


def _replace(
  params: Any,
  layers: Layers,
  names: tuple[str, str],
  change: Callable[[SpectralKernel, jax.Array], jax.Array],
) -> Any:
  """Puts leaves of the second name in place of those of the first."""
  leaves, changed = _change(params, layers, names[0], change)
  for keys, leaf in changed.items():
    leaves[(*keys[:-1], names[1])] = leaf
  return traverse_util.unflatten_dict(leaves)


def match_layers(
  params: Any, rules: Sequence[Rule]
) -> dict[str, SpectralKernel]:
  """What layers are to store, by rules on a dense model's parameters alone.

  Where the model is at hand, `find_layers` is the surer way: a kernel of more
  than two axes may be heads, or a stack of layers, and only the model knows;
  here its rule must say the `shape` of the matrix.

  Args:
    params: the parameters of any linen model, {'params': …} or what is in it.
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
  leaves, paths = _flatten(params)
  kernels = {
    path.removesuffix('kernel').rstrip('/'): leaves[keys].shape
    for path, keys in paths.items()
    if keys[-1:] == ('kernel',) and getattr(leaves[keys], 'ndim', 0) > 1
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
    params, layers, ('kernel', 'coefficients'), SpectralKernel.project
  )


def to_dense(params: Any, layers: Layers, method: str = 'auto') -> Any:
  """Rebuilds the kernels of a spectral model, for the dense one.

  Args:
    params: the spectral model's parameters, {'params': …} or what is in it.
    layers: of the spectral model, by `find_layers` or `match_layers`.
    method: how kernels are rebuilt, see `SpectralKernel.rebuild`.

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
    params,
    layers,
    ('coefficients', 'kernel'),
    lambda kernel, leaf: kernel.rebuild(leaf, method),
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

  def error(kernel: SpectralKernel, leaf: jax.Array) -> float:
    wide = jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
    lost = jnp.linalg.norm(wide - kernel.rebuild(kernel.project(wide)))
    return round(float(lost / jnp.maximum(jnp.linalg.norm(wide), 1e-30)), 7)

  _, errors = _change(params, layers, 'kernel', error)
  return dict(zip(layers, errors.values(), strict=True))
