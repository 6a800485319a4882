"""The rule that lets one learning rate serve every selection, for Optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from spectral_jax.core.reconstruct import (
  coefficients_from_plane,
  plane_from_coefficients,
)
from spectral_jax.core.selection import Selection


def _is_selection(x: object) -> bool:
  return x is None or isinstance(x, Selection)


def _map_selected(
  change: Callable[[jax.Array, Selection], jax.Array],
  tree: optax.Params,
  selections: Any,
) -> optax.Params:
  """Applies `change` to the leaves that have a selection."""
  return jax.tree.map(
    lambda selection, x: x if selection is None else change(x, selection),
    selections,
    tree,
    is_leaf=_is_selection,
  )


def _spread(coefficients: jax.Array, selection: Selection) -> jax.Array:
  """Planes [..., N, M] of coefficients, of which there may be a stack."""
  if coefficients.ndim > len(selection.layout):
    return jax.vmap(lambda one: _spread(one, selection))(coefficients)
  return plane_from_coefficients(coefficients, selection)


def _collect(plane: jax.Array, selection: Selection) -> jax.Array:
  """The kept entries of planes [..., N, M]."""
  if plane.ndim > 2:
    return jax.vmap(lambda one: _collect(one, selection))(plane)
  return coefficients_from_plane(plane, selection)


def scale_by_selection(selections: Any) -> optax.GradientTransformation:
  """Makes Adam's steps on coefficients as effective as on a dense kernel.

  Adam moves every number by the learning rate, whatever its gradient's size.
  The loss then falls, to first order, by the learning rate times the sum of the
  gradient's absolute values: over N·M weights of a dense kernel, over K
  coefficients of a spectral one. An orthonormal basis leaves the size of an
  entry as it is, so the sum is K/(N·M) of the dense one, and the step must be
  `Selection.update_scale` = N·M/K times as long. A learning rate that was tuned
  on the dense model then serves every K.

  Put it after `optax.scale_by_adam` and before the learning rate. It does not
  suit Muon, whose step has one spectral norm in any basis.

  Args:
    selections: a tree like that of the parameters: a `Selection` for
      coefficients, None for everything else, as `find_selections` gives it.

  Example:
    >>> import jax.numpy as jnp
    >>> quarter = Selection.of('random', (4, 4), keep=0.25)
    >>> tx = scale_by_selection({'coefficients': quarter, 'bias': None})
    >>> updates = {'coefficients': jnp.ones(4), 'bias': jnp.ones(4)}
    >>> updates, _ = tx.update(updates, tx.init(updates))
    >>> jax.tree.map(lambda u: u.tolist(), updates)
    {'bias': [1.0, 1.0, 1.0, 1.0], 'coefficients': [4.0, 4.0, 4.0, 4.0]}
  """
  return optax.stateless(
    lambda updates, _: _map_selected(
      lambda u, selection: u * selection.update_scale, updates, selections
    )
  )


def on_plane(
  transform: optax.GradientTransformation, selections: Any
) -> optax.GradientTransformation:
  """Runs a transform on the whole N×M plane of each kernel's coefficients.

  What the transform gives outside the kept positions is dropped. Its state is
  that of the planes: N·M numbers a kernel, not K.

  Args:
    transform: for example Muon's, which wants matrices.
    selections: as for `scale_by_selection`.
  """

  def spread(tree: optax.Params) -> optax.Params:
    return _map_selected(_spread, tree, selections)

  def init(params: optax.Params) -> optax.OptState:
    return transform.init(spread(params))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    planes = None if params is None else spread(params)
    updates, state = transform.update(spread(updates), state, planes)
    return _map_selected(_collect, updates, selections), state

  return optax.GradientTransformation(init, update)
