"""Which coefficients the spectral layers of somebody's model store."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense


def find_selections(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
  """The `Selection` of every `SpectralDense` in a model.

  Nothing is computed: the model is traced with the shapes of the arguments.

  Args:
    model: any linen module.
    *args: what `model.init` takes after the random key.
    **kwargs: likewise.

  Returns:
    A tree like that of the variables: a Selection for each `coefficients` of a
    spectral layer, None for all else.

  Example:
    >>> model = nn.Sequential([SpectralDense(8, keep=0.25), nn.Dense(2)])
    >>> found = find_selections(model, jnp.ones((1, 4)))['params']
    >>> found['layers_0']['coefficients'].count, found['layers_1']['kernel']
    (8, None)
  """
  found: dict[tuple[str, ...], Selection] = {}

  def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    if isinstance(layer, SpectralDense) and context.method_name == '__call__':
      inputs = args[0] if args else kwargs['inputs']
      found[layer.path] = layer.select(jnp.shape(inputs)[-1])
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(note):
    variables = jax.eval_shape(
      lambda: model.init(jax.random.key(0), *args, **kwargs)
    )

  def selection(path: Any, _: jax.ShapeDtypeStruct) -> Selection | None:
    _, *layer, name = (entry.key for entry in path)
    return found.get(tuple(layer)) if name == 'coefficients' else None

  return jax.tree_util.tree_map_with_path(selection, variables)
