"""Spectral layers in an NNX model whose code stays as it is."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_jax.layers.linear_general_nnx import (
  SpectralLinearGeneral,
  without_axis_names,
)
from spectral_jax.layers.linear_nnx import SpectralLinear
from spectral_jax.layers.rules import Rule, check_all_match, first_match
from spectral_jax.layers.spectral_kernel import SpectralKernel

_SPECTRAL: dict[Any, Any] = {
  nnx.Linear: SpectralLinear,
  nnx.LinearGeneral: SpectralLinearGeneral,
}
_DENSE = {spectral: dense for dense, spectral in _SPECTRAL.items()}


def spectralize(
  model: nnx.Module, rules: Sequence[Rule], *, project: bool = False
) -> None:
  """Replaces `Linear` and `LinearGeneral` layers of a model by spectral ones.

  It changes the model in place: each layer of exactly these classes whose path
  a rule matches becomes a `SpectralLinear` or `SpectralLinearGeneral`, with
  `coefficients` where it had `kernel`; that holds inside Flax's own layers
  (`MultiHeadAttention`) too. Attributes that somebody has added to a layer do
  not come along. A layer that is used in
  several places remains one, and goes by the path that `nnx.state` gives it.
  Layers stacked by `nnx.vmap` along leading axes share a path and positions.

  Do it before the optimizer is made; it may be done inside `nnx.jit` and
  `nnx.eval_shape`, where the model is made.

  Args:
    model: any module that holds the layers.
    rules: the first that matches a path, as `blocks/0/attention/query`, counts.
    project: False: the model is to be trained from scratch, and the rebuilt
      kernels have the variance of those that were drawn. True: it holds trained
      kernels, and the rebuilt ones come nearest to them in least squares.

  Raises:
    ValueError: if a rule matches no layer, or a layer cannot be stored as its
      rule says; the model is as it was.

  Example:
    >>> rngs = nnx.Rngs(0)
    >>> up, down = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)
    >>> model = nnx.Sequential(up, nnx.relu, down)
    >>> spectralize(model, [Rule('layers/0', keep=0.25)])
    >>> model.layers[0].coefficients.shape, model.layers[2].kernel.shape
    ((8,), (8, 4))
  """
  rules = tuple(rules)
  found = _find(model, lambda layer: type(layer) in _SPECTRAL)
  check_all_match(rules, found)
  matched = {path: first_match(rules, path) for path in found}

  def convert(path: str) -> nnx.Module:
    dense, rule = found[path], matched[path]
    assert rule is not None
    arguments = rule.arguments(path)
    layer = _counterpart(dense, _SPECTRAL[type(dense)], **arguments)
    kernel = dense.kernel[...]
    stored = _stacked(layer.stored, kernel.shape, layer.stored.shape)
    coefficients = stored.project(kernel)
    if not project:
      # A projection keeps that part of the variance, see `coefficients_init`.
      scale = stored.selection.fraction**-0.5
      coefficients *= jnp.asarray(scale, coefficients.dtype)
    layer.coefficients = _variable_like(dense.kernel, coefficients)
    return layer

  chosen = {
    path: layer
    for path, layer in found.items()
    if (rule := matched[path]) and rule.keep is not None
  }
  _swap(model, chosen, 'kernel', convert)


def densify(model: nnx.Module) -> None:
  """Replaces all spectral layers of a model by dense ones that do the same.

  The reverse of `spectralize`, in place: each `SpectralLinear` becomes an
  `nnx.Linear` with the rebuilt kernel, each `SpectralLinearGeneral` an
  `nnx.LinearGeneral`.

  Args:
    model: any module that holds the layers.

  Raises:
    ValueError: for a model that is itself a layer, or whose layers share their
      coefficients; it is as it was.

  Example:
    >>> layer = SpectralLinear(4, 8, keep=0.25, rngs=nnx.Rngs(0))
    >>> model = nnx.Sequential(layer, nnx.relu)
    >>> densify(model)
    >>> model.layers[0].kernel.shape
    (4, 8)
  """
  found = _find(model, lambda layer: type(layer) in _DENSE)

  def convert(path: str) -> nnx.Module:
    spectral = found[path]
    layer = _counterpart(spectral, _DENSE[type(spectral)])
    coefficients = spectral.coefficients[...]
    stored = _stacked(
      spectral.stored, coefficients.shape, spectral.stored.layout
    )
    kernel = stored.rebuild(coefficients, spectral.method)
    layer.kernel = _variable_like(spectral.coefficients, kernel)
    return layer

  _swap(model, found, 'coefficients', convert)


def find_layers(model: nnx.Module) -> dict[str, SpectralKernel]:
  """What every spectral layer of an NNX model stores, by the layer's path.

  Args:
    model: any module; its parameters may be abstract (`nnx.eval_shape`).

  Returns:
    For each path, as `blocks/0/attention/query`, its `SpectralKernel`. A stack
    of layers, made by `nnx.vmap`, counts as one, with a stack of kernels. A
    layer in several places has the path that `nnx.state` gives it.

  Raises:
    ValueError: for coefficients stacked along other axes than the leading ones.

  Example:
    >>> layer = SpectralLinear(4, 8, keep=0.25, rngs=nnx.Rngs(0))
    >>> found = find_layers(nnx.Sequential(layer, nnx.relu))
    >>> {path: stored.selection.count for path, stored in found.items()}
    {'layers/0': 8}
  """
  found = _find(model, lambda layer: isinstance(layer, SpectralLinearGeneral))
  return {
    path: _stacked(layer.stored, layer.coefficients.shape, layer.stored.layout)
    for path, layer in found.items()
  }


def _named(path: Sequence[Any]) -> str:
  return '/'.join(map(str, path))


def _find(model: nnx.Module, wanted: Callable[[Any], bool]) -> dict[str, Any]:
  """The layers that are wanted, each once, by the path of `nnx.state`."""
  return {
    _named(path): node
    for path, node in nnx.iter_graph(model, graph=True)
    if wanted(node)
  }


def _counterpart(layer: Any, into: Any, **arguments: Any) -> Any:
  """The same layer of another class, its kernel or coefficients abstract."""
  settings = {
    name: getattr(layer, name)
    for name in inspect.signature(into.__init__).parameters
    if hasattr(layer, name)
  }
  other = nnx.eval_shape(
    lambda: into(**settings, **arguments, rngs=nnx.Rngs(0))
  )
  other.bias = layer.bias
  return other


def _stacked(
  stored: SpectralKernel, leaf: tuple[int, ...], one: tuple[int, ...]
) -> SpectralKernel:
  """The same of a layer under `vmap`, whose leaf has leading axes more."""
  count = len(leaf) - len(one)
  if count < 0 or leaf[count:] != one:
    raise ValueError(
      f'parameters: expected shape {one}, or a stack of them along leading '
      f'axes, got {leaf}.'
    )
  return SpectralKernel(
    stored.selection,
    stored.basis,
    shape=(*leaf[:count], *stored.shape),
    stack=tuple(range(count + len(stored.stack))),
  )


def _variable_like(variable: Any, value: jax.Array) -> Any:
  metadata = without_axis_names(variable.get_metadata())
  return variable.var_type(value, **metadata)


def _swap(
  model: nnx.Module,
  layers: Mapping[str, Any],
  parameter: str,
  convert: Callable[[str], nnx.Module],
) -> None:
  """Puts each layer's conversion in its places, after all have succeeded."""
  if '' in layers:
    raise ValueError(
      'model: expected a module that holds layers, got the layer itself; put '
      'it in an nnx.Sequential.'
    )
  for paths in nnx.find_duplicates(model, only=nnx.Variable):
    named = [_named(path) for path in paths]
    for path in named:
      layer, _, name = path.rpartition('/')
      if name == parameter and layer in layers:
        others = ', '.join(named)
        raise ValueError(
          f'model: its layers share a parameter ({others}), which they could '
          'no longer; leave them as they are, or let them share the layer.'
        )
  converted = {}
  for path, layer in layers.items():
    try:
      converted[id(layer)] = convert(path)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
  _replace(model, converted, set())


def _replace(node: Any, new: Mapping[int, Any], visited: set[int]) -> Any:
  """The node with new layers: itself, or a new container if it is no module."""
  if id(node) in new:
    return new[id(node)]
  if isinstance(node, nnx.Pytree):
    if id(node) not in visited:
      visited.add(id(node))
      for name, child in tuple(vars(node).items()):
        if (other := _replace(child, new, visited)) is not child:
          setattr(node, name, other)
    return node
  treedef: Any
  children, treedef = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
  if isinstance(node, nnx.Variable) or jax.tree_util.treedef_is_leaf(treedef):
    return node
  others = [_replace(child, new, visited) for child in children]
  if all(other is child for other, child in zip(others, children, strict=True)):
    return node
  return treedef.unflatten(others)
