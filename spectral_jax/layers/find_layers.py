"""What the spectral layers of somebody's model store."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.spectral_kernel import SpectralKernel, stack_axes


def _stacked(kernel: SpectralKernel, shape: tuple[int, ...]) -> SpectralKernel:
  """The same with the stack that its coefficients [*shape] have in the tree."""
  axes = stack_axes(shape, lambda one: one == kernel.layout)
  full = list(kernel.shape)
  stack = []
  for axis in axes:
    place = len(full) if axis == len(shape) - 1 else axis
    full.insert(place, shape[axis])
    stack.append(place)
  inner = [a for a in range(len(full)) if a not in stack]
  stack += [inner[axis] for axis in kernel.stack]
  return SpectralKernel(
    kernel.selection, kernel.basis, tuple(full), tuple(sorted(stack))
  )


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


def _trace(
  model: nn.Module, *args: Any, **kwargs: Any
) -> tuple[dict[str, SpectralKernel], Any]:
  """What each layer stores, as it sees itself, and the model's variables."""
  found: dict[str, SpectralKernel] = {}

  def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    spectral = isinstance(layer, SpectralDense | SpectralDenseGeneral)
    if spectral and context.method_name == '__call__':
      inputs = args[0] if args else kwargs['inputs']
      found[layer_path(layer)] = layer.stored(jnp.shape(inputs))
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(note):
    return found, jax.eval_shape(
      lambda: model.init(jax.random.key(0), *args, **kwargs)
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

  Example:
    >>> model = nn.Sequential([SpectralDense(8, keep=0.25), nn.Dense(2)])
    >>> found = find_layers(model, jnp.ones((1, 4)))
    >>> {path: kernel.selection.count for path, kernel in found.items()}
    {'layers_0': 8}
  """
  found, variables = _trace(model, *args, **kwargs)
  params = nn.meta.unbox(variables)['params']
  leaves = traverse_util.flatten_dict(params, sep='/')
  return {
    path: _stacked(kernel, leaves[f'{path}/coefficients'.lstrip('/')].shape)
    for path, kernel in found.items()
  }


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

  def selection(path: Any, _: Any) -> Selection | None:
    _, *layer, name = (entry.key for entry in path)
    kernel = found.get('/'.join(layer))
    return kernel.selection if kernel and name == 'coefficients' else None

  return jax.tree_util.tree_map_with_path(
    selection, variables, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata)
  )
