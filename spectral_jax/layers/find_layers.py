"""What the spectral layers of somebody's model store."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.spectral_kernel import SpectralKernel


def layer_path(layer: nn.Module) -> str:
  """Where a bound module has its parameters, as `block_0/attention/query`.

  `Module.path` does not follow a scope that `nn.share_scope` has moved.
  """
  names, scope = [], layer.scope
  assert scope is not None
  while scope.parent is not None:
    names.append(str(scope.name))
    scope = scope.parent
  return '/'.join([*scope.path, *reversed(names)])


# Part of jit's cache key: each search traces anew what the model compiles.
_SEARCH = jax.make_user_context(None)
_PROBE = 'kernel_axes'
_UNUSUAL = 10**6 + 3  # no axis that layers are stacked along is as long


def _trace(
  model: nn.Module, *args: Any, **kwargs: Any
) -> tuple[dict[str, SpectralKernel], Any]:
  """What each layer stores, as it sees itself, and the model's variables.

  Beside the coefficients the variables have an abstract parameter with axes of
  unusual sizes in place of the kernel's, which shows where a model stacks it.
  """
  found: dict[str, SpectralKernel] = {}

  def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    spectral = isinstance(layer, SpectralDense | SpectralDenseGeneral)
    if not spectral or context.method_name != '__call__':
      return next_fun(*args, **kwargs)
    inputs = args[0] if args else kwargs['inputs']
    outputs = next_fun(*args, **kwargs)
    stored = layer.stored(jnp.shape(inputs))
    if not layer.scope.has_variable('params', _PROBE):  # not its second call
      axes = tuple(_UNUSUAL + axis for axis in range(len(stored.shape)))
      layer.scope.param(_PROBE, lambda _: jnp.zeros(axes, jnp.int8))
    found[layer_path(layer)] = stored
    return outputs

  with _SEARCH(object()), nn.intercept_methods(note):
    return found, jax.eval_shape(
      lambda: model.init(jax.random.key(0), *args, **kwargs)
    )


def _stacked(stored: SpectralKernel, probe: tuple[int, ...]) -> SpectralKernel:
  """The same with the stack that a model makes of the layer."""
  one = dict(enumerate(stored.shape))
  shape = tuple(one.get(size - _UNUSUAL, size) for size in probe)
  outer = [axis for axis, size in enumerate(probe) if size < _UNUSUAL]
  inner = [probe.index(_UNUSUAL + axis) for axis in stored.stack]
  return SpectralKernel(
    stored.selection, stored.basis, shape, tuple(sorted(outer + inner))
  )


def find_layers(
  model: nn.Module, *args: Any, **kwargs: Any
) -> dict[str, SpectralKernel]:
  """What every spectral layer of a linen model stores, by the layer's path.

  Nothing is computed: the model is traced with the shapes of the arguments.
  Within `spectralize`, the layers are found that its rules replace.

  Args:
    model: any linen module.
    *args: what `model.init` takes after the random key.
    **kwargs: likewise.

  Returns:
    For each path, as `block_0/attention/query`, its `SpectralKernel`. A stack
    of scanned layers counts as one, with a stack of kernels.

  Raises:
    ValueError: for a layer whose parameters are not at its path.

  Example:
    >>> model = nn.Sequential([SpectralDense(8, keep=0.25), nn.Dense(2)])
    >>> found = find_layers(model, jnp.ones((1, 4)))
    >>> {path: kernel.selection.count for path, kernel in found.items()}
    {'layers_0': 8}
  """
  found, variables = _trace(model, *args, **kwargs)
  params = nn.meta.unbox(variables).get('params', {})
  probes = {
    '/'.join(path[:-1]): leaf.shape
    for path, leaf in traverse_util.flatten_dict(params).items()
    if path[-1] == _PROBE
  }
  if found.keys() != probes.keys():
    lost = ', '.join(sorted(found.keys() - probes.keys()))
    raise ValueError(
      f'model: the parameters of {lost} lie elsewhere; a wrapper of layers, as '
      'nn.WeightNorm, cannot hold spectral ones.'
    )
  return {path: _stacked(found[path], probes[path]) for path in found}


def find_selections(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
  """The `Selection` of every spectral layer in a model, as a tree.

  Args:
    model: any linen module.
    *args: what `model.init` takes after the random key.
    **kwargs: likewise.

  Returns:
    A tree like that of the variables: a Selection for each `coefficients` of a
    spectral layer, None for all else. `scale_by_selection` takes it.

  Example:
    >>> model = nn.Sequential([SpectralDense(8, keep=0.25), nn.Dense(2)])
    >>> found = find_selections(model, jnp.ones((1, 4)))['params']
    >>> found['layers_0']['coefficients'].count, found['layers_1']['kernel']
    (8, None)
  """
  found, variables = _trace(model, *args, **kwargs)

  selections: dict[str, Selection | None] = {
    f'params/{path}/coefficients'.replace('//', '/'): stored.selection
    for path, stored in found.items()
  }

  def selection(path: Any, _: Any) -> Selection | None:
    keys = jax.tree_util.keystr(path, simple=True, separator='/')
    return selections.get(keys)

  flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
  own = {path: leaf for path, leaf in flat.items() if path[-1] != _PROBE}
  return jax.tree_util.tree_map_with_path(
    selection,
    traverse_util.unflatten_dict(own),
    is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
  )
