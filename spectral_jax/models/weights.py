"""How a model's weights lie in memory while it generates.

Merged, its kernels are rebuilt once: it is then a dense model. As coefficients,
no kernel is ever built: inputs are transformed, meet what is stored, and are
transformed back. Those of `strided` layers are blocks and stay as they are; the
others are packed, see `core.packed`.
"""

import dataclasses
import functools
from typing import Any

import jax
from flax import traverse_util

from spectral_jax.convert.project import to_dense
from spectral_jax.core.packed import pack
from spectral_jax.layers.packed import PackedConfig
from spectral_jax.models.stored import (
  DENSE,
  layers_of,
  parameter_bytes,
  with_linear,
)
from spectral_jax.models.transformer import Transformer

WEIGHTS = ('auto', 'merged', 'coefficients')


def place_weights(
  model: Transformer,
  params: Any,
  weights: str = 'auto',
  memory: int | None = None,
) -> tuple[Transformer, Any]:
  """The model and the parameters to generate with; they compute the same.

  Dense and low-rank models stay as they are, and so does what it returned.

  Args:
    model: as it was trained.
    params: its parameters.
    weights: `merged`, the fastest; `coefficients`, the smallest; or `auto`:
      merged if that fits in the memory, or none is given.
    memory: bytes that the parameters may take.

  Raises:
    ValueError: for another word, coefficients of a basis that is not the
      cosines, or parameters that do not fit in the memory.

  Example:
    >>> from spectral_jax.models.transformer import TransformerConfig
    >>> model = Transformer(11, TransformerConfig(width=32, layers=1))
    >>> tokens = jax.numpy.zeros((1, 128), int)
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)['params']
    >>> for memory in 60_000, 80_000:
    ...   _, placed = place_weights(model, params, memory=memory)
    ...   sum(leaf.nbytes for leaf in jax.tree.leaves(placed))
    49056
    70272
  """
  if weights not in WEIGHTS:
    raise ValueError(
      f'weights: expected one of {", ".join(WEIGHTS)}, got {weights!r}.'
    )
  linear = model.config.linear
  if linear.kind != 'spectral' or isinstance(linear, PackedConfig):
    _check_memory(model, memory, 'they have no smaller form')
    return model, params
  merged = with_linear(model, DENSE)
  fits = memory is None or parameter_bytes(merged) <= memory
  if weights == 'merged' or (weights == 'auto' and fits):
    _check_memory(merged, memory, "take weights='coefficients'")
    return merged, _merge(model, params)
  if linear.basis != 'dct':
    raise ValueError(
      f'weights: coefficients of the basis {linear.basis!r} have no fast '
      "transform; take 'merged'."
    )
  blocks = linear.selection == 'strided'
  small = with_linear(
    model,
    dataclasses.replace(linear, method='factored')
    if blocks
    else PackedConfig(**dataclasses.asdict(linear)),
  )
  _check_memory(small, memory, 'they have no smaller form')
  return small, params if blocks else _pack(model, params)


def _check_memory(model: Transformer, memory: int | None, mend: str) -> None:
  if memory is None:
    return
  needed = parameter_bytes(model)
  if needed > memory:
    raise ValueError(
      f'memory: expected at least {needed:,} bytes for the parameters, got '
      f'{memory:,}; {mend}.'
    )


@functools.partial(jax.jit, static_argnames='model')
def _merge(model: Transformer, params: Any) -> Any:
  return to_dense(params, layers_of(model))


def _pack(model: Transformer, params: Any) -> Any:
  flat = traverse_util.flatten_dict(params, sep='/')
  for path, kernel in layers_of(model).items():
    packed = pack(flat[f'{path}/coefficients'], kernel.selection)
    for name, leaf in packed._asdict().items():
      flat[f'{path}/{name}'] = leaf
  return traverse_util.unflatten_dict(flat, sep='/')
