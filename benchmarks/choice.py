"""Positions that are chosen while training: an optimizer, and the choice.

Parameters are those of a model that stores all coefficients of its kernels; a
mask says which K of a layer's N·M positions are trained.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from spectral_jax.core.selection import Selection
from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training import step

_MOVED = 0.1  # of the kept, each time that they are chosen again


class ChosenState(NamedTuple):
  """The state of `chosen`; its first two trees are like the parameters.

  Attributes:
    gain: what a number's steps are multiplied by; 0 where it is not trained.
    squares: running means of the squared gradients, of all numbers.
    inner: the state of the optimizer.
  """

  gain: Any
  squares: Any
  inner: optax.OptState


def chosen(
  optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
  """An optimizer that sees and moves only the numbers whose gain is not 0.

  Args:
    optimizer: uses the parameters for weight decay alone.
    decay: of the running means, from step to step.
  """

  def init(params: optax.Params) -> ChosenState:
    ones = jax.tree.map(jnp.ones_like, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return ChosenState(ones, zeros, optimizer.init(params))

  def update(
    grads: optax.Updates, state: ChosenState, params: optax.Params
  ) -> tuple[optax.Updates, ChosenState]:
    gain = state.gain
    squares = jax.tree.map(
      lambda s, g: decay * s + (1 - decay) * g**2, state.squares, grads
    )
    seen = jax.tree.map(lambda g, k: jnp.where(k > 0, g, 0), grads, gain)
    # Weight decay is not lengthened: what is multiplied below is divided here.
    shrunk = jax.tree.map(lambda p, k: p / jnp.maximum(k, 1), params, gain)
    updates, inner = optimizer.update(seen, state.inner, shrunk)
    updates = jax.tree.map(jnp.multiply, updates, gain)
    return updates, ChosenState(gain, squares, inner)

  return optax.GradientTransformation(init, update)


def wanted(config: TransformerConfig, keep: float) -> dict[str, Selection]:
  """The `random` selections of K positions, by the paths of coefficients."""
  return {
    f'block_{block}/{name}/coefficients': Selection.of(
      'random', shape, keep, config.seed(block, name)
    )
    for block in range(config.layers)
    for name, shape in config.kernel_shapes().items()
  }


def mask_of(selection: Selection) -> np.ndarray:
  """Where its positions lie among all N·M, in the order of `random`."""
  stored = dataclasses.replace(selection, kind='random', count=selection.size)
  return np.isin(stored.positions, selection.positions)


def largest(scores: jax.Array, count: int) -> jax.Array:
  """True at exactly `count` places; of equal scores, at the first."""
  order = jnp.argsort(-scores, stable=True)
  return jnp.zeros(scores.shape, bool).at[order[:count]].set(True)


def choose(
  by: str,
  random: Selection,
  values: jax.Array,
  squares: jax.Array,
  kept: jax.Array,
) -> jax.Array:
  """A mask of the K positions of a layer to train from now on.

  Args:
    by: the score; `rechosen` keeps most of those kept before.
    random: a selection of K of the layer's positions.
    values: of all its coefficients.
    squares: their squared gradients.
    kept: which of them were trained up to now: all, or K.
  """
  count = random.count
  if by == 'random':
    return jnp.asarray(mask_of(random))
  if by == 'gradient':
    return largest(squares, count)
  if by == 'weight' or kept.all():
    return largest(values**2, count)
  moved = min(round(_MOVED * count), kept.size - count)
  stay = largest(jnp.where(kept, values**2, -1), count - moved)
  return stay | largest(jnp.where(kept, -1, squares), moved)


def choose_all(
  by: str, state: step.TrainState, layers: Mapping[str, Selection]
) -> dict[str, jax.Array]:
  """The masks of all layers."""
  values = flatten_dict(state.params, sep='/')
  squares = flatten_dict(state.opt_state.squares, sep='/')
  gain = flatten_dict(state.opt_state.gain, sep='/')
  return {
    name: choose(by, random, values[name], squares[name], gain[name] > 0)
    for name, random in layers.items()
  }


def keep_only(
  state: step.TrainState, masks: Mapping[str, jax.Array], *, widen: bool
) -> step.TrainState:
  """Trains the masked positions from here on; all others are zero.

  With `widen`, values are multiplied by √(NM/K): kernels keep their variance.
  """
  params = flatten_dict(state.params, sep='/')
  gain = flatten_dict(state.opt_state.gain, sep='/')
  for name, mask in masks.items():
    longer = mask.size / mask.sum()
    values = params[name] * jnp.sqrt(longer) if widen else params[name]
    params[name] = jnp.where(mask, values, 0)
    gain[name] = jnp.where(mask, longer, 0)
  opt_state = state.opt_state._replace(gain=unflatten_dict(gain, sep='/'))
  params = unflatten_dict(params, sep='/')
  return state.replace(params=params, opt_state=opt_state)
