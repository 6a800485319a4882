"""The rule that lets one learning rate serve every selection, for Optax."""

from typing import Any

import jax
import optax

from spectral_jax.core.selection import Selection


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

  def scale(selection: Selection | None, update: jax.Array) -> jax.Array:
    return update if selection is None else update * selection.update_scale

  return optax.stateless(
    lambda updates, _: jax.tree.map(
      scale,
      selections,
      updates,
      is_leaf=lambda x: x is None or isinstance(x, Selection),
    )
  )
