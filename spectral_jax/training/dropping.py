"""Weights that are dropped while a model trains: the weakest, by and by.

Positions that are chosen so, of all coefficients of a kernel, are better than
random ones, the fewer are left, the more (docs/results.md). It is the schedule
of Zhu and Gupta (arXiv 1710.01878): of what is still to be dropped, the cube of
the time that is left is there.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def kept_schedule(
  steps: int, *, begin: float, end: float, keep: float
) -> optax.Schedule:
  """How much of a layer is left after so many steps: from 1 to `keep`.

  It falls a hundred times a run at most, for each fall weighs all numbers.

  Args:
    steps: of the run.
    begin: the part of them before which nothing is dropped.
    end: the part after which no more is.
    keep: what is left then.

  Example:
    >>> kept = kept_schedule(100, begin=0.1, end=0.9, keep=0.25)
    >>> [round(float(kept(step)), 3) for step in (10, 11, 50, 90, 100)]
    [1.0, 0.972, 0.344, 0.25, 0.25]
  """
  every = max(1, steps // 100)
  first = round(begin * steps)
  falls = max(1, (round(end * steps) - first) // every)

  def kept(step: jax.typing.ArrayLike) -> jax.Array:
    done = jnp.clip((jnp.asarray(step) - first) // every, 0, falls)
    # Nothing is dropped of 1, exactly.
    return 1 - (1 - keep) * (1 - (1 - done / falls) ** 3)

  return kept


def lengthen_kept(
  kept: optax.Schedule, powers: Any
) -> optax.GradientTransformation:
  """Makes updates longer as fewer numbers take them.

  As `scale_by_selection` does for numbers that were never there: by one over
  what is left under Adam, by its square root under Muon.

  Args:
    kept: how much is left after so many steps.
    powers: a tree like that of the parameters: of one over what is left, 1 or
      ½, and 0 for what is not dropped.
  """

  def update(
    updates: optax.Updates,
    state: optax.ScaleByScheduleState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
    del params
    left = kept(state.count)
    updates = jax.tree.map(lambda u, p: u / left**p, updates, powers)
    return updates, _next(state)

  return optax.GradientTransformation(_init, update)


def drop_weakest(
  kept: optax.Schedule, stacks: Any
) -> optax.GradientTransformation:
  """Drops the numbers of each layer that are nearest to zero.

  What is dropped is zero, and stays so: that is how it is known, so that no
  mask is stored. It comes last, for it looks at the numbers after the step.

  Args:
    kept: how much of a layer is left after so many steps.
    stacks: a tree like that of the parameters: None for what is not dropped,
      else how many of the first axes are a stack of layers.

  Example:
    >>> halve = drop_weakest(lambda step: jnp.where(step < 1, 1, 0.5), {'w': 0})
    >>> params = {'w': jnp.array([1.0, -3, 2, -1])}
    >>> updates = {'w': jnp.array([0.0, 0, -2, -1])}
    >>> updates, state = halve.update(updates, halve.init(params), params)
    >>> optax.apply_updates(params, updates)['w'].tolist()
    [0.0, -3.0, 0.0, -2.0]
  """

  def update(
    updates: optax.Updates,
    state: optax.ScaleByScheduleState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
    before, after = kept(state.count), kept(state.count + 1)

    def drop(stack: int | None, update: jax.Array, old: jax.Array) -> jax.Array:
      if stack is None:
        return update
      old_SxK = old.reshape(_stacked(old, stack))
      new_SxK = old_SxK + update.reshape(old_SxK.shape)
      there_SxK = (old_SxK != 0) | (before == 1)
      stay_SxK = _strongest(new_SxK, there_SxK, after)
      return jnp.where(stay_SxK.reshape(old.shape), update, -old)

    updates = jax.tree.map(
      drop, stacks, updates, params, is_leaf=lambda x: x is None
    )
    return updates, _next(state)

  return optax.GradientTransformation(_init, update)


def _init(params: optax.Params) -> optax.ScaleByScheduleState:
  del params
  return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))


def _next(state: optax.ScaleByScheduleState) -> optax.ScaleByScheduleState:
  return optax.ScaleByScheduleState(optax.safe_increment(state.count))


def _stacked(array: jax.Array, stack: int) -> tuple[int, int]:
  """The shape with a row for each layer of a stack."""
  size = math.prod(array.shape[stack:])
  return array.size // size, size


def _strongest(
  new_SxK: jax.Array, there_SxK: jax.Array, keep: jax.Array
) -> jax.Array:
  """Which of the numbers that are there stay: of each row the strongest."""
  size = new_SxK.shape[1]
  left = size - jnp.round((1 - keep) * size).astype(jnp.int32)

  def weigh() -> jax.Array:
    # As integers, the bits of positive floats are in their order.
    strength_SxK = jnp.abs(new_SxK).astype(jnp.float32)
    key_SxK = jax.lax.bitcast_convert_type(strength_SxK, jnp.int32)
    key_SxK = jnp.where(there_SxK, key_SxK, -1)

    def add_bit(bit: jax.Array, weakest_Sx1: jax.Array) -> jax.Array:
      tried_Sx1 = weakest_Sx1 | (1 << (30 - bit))
      reached = jnp.sum(key_SxK >= tried_Sx1, axis=1, keepdims=True)
      return jnp.where(reached >= left, tried_Sx1, weakest_Sx1)

    # A sort would be slow to compile for a TPU, and gather what is split.
    weakest_Sx1 = jax.lax.fori_loop(
      0, 31, add_bit, jnp.zeros((len(key_SxK), 1), jnp.int32)
    )
    above_SxK, tied_SxK = key_SxK > weakest_Sx1, key_SxK == weakest_Sx1
    room_Sx1 = left - jnp.sum(above_SxK, axis=1, keepdims=True)
    return above_SxK | (tied_SxK & (jnp.cumsum(tied_SxK, axis=1) <= room_Sx1))

  falls = jnp.any(there_SxK.sum(axis=1) > left)
  return jax.lax.cond(falls, weigh, lambda: there_SxK)
