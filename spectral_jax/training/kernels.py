"""Optimizers that see whole kernels where coefficients are stored.

A spectral layer's own gradient says what K coefficients want; that of its
kernel says what all N·M weights want. Muon orthogonalises the latter: of the
former, laid out among zeros, it would make as much of what is missing.
"""

from collections.abc import Mapping
from typing import Any

import optax

from spectral_jax.convert.project import to_dense, to_spectral
from spectral_jax.layers.spectral_kernel import SpectralKernel


def on_kernels(
  transform: optax.GradientTransformation, layers: Mapping[str, SpectralKernel]
) -> optax.GradientTransformationExtraArgs:
  """Runs a transform on the gradients of rebuilt kernels.

  The transform sees gradients, and parameters, of the dense model. What it
  makes of a kernel's is projected onto the coefficients that are stored: of all
  updates that the layer can follow, the nearest. Its state is that of the dense
  model, N·M numbers a kernel. Wrappers that compare gradients with parameters,
  as `optax.MultiSteps` does, go inside.

  A projection makes an update shorter: `train.py` makes up for it by
  `Selection.update_scale` under Adam and its square root under Muon, which lets
  the dense model's learning rates stay.

  Args:
    transform: for example that of Muon, for the dense model's parameters.
    layers: of the spectral model, by `find_layers`.

  Returns:
    A transform of gradients of the dense model, at `to_dense(params, layers)`,
    to updates of the spectral model's params.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from spectral_jax.core.selection import Selection
    >>> layers = {'mlp': SpectralKernel(Selection.of('block', (4, 4), keep=4))}
    >>> tx = on_kernels(optax.contrib.muon(0.02), layers)
    >>> params = {'mlp': {'coefficients': jnp.ones(4)}}
    >>> state = tx.init(params)
    >>> loss = lambda dense: jnp.sum(dense['mlp']['kernel'] ** 2)
    >>> grads = jax.grad(loss)(to_dense(params, layers))
    >>> updates, state = tx.update(grads, state, params)
    >>> updates['mlp']['coefficients'].shape
    (4,)
  """
  inner = optax.with_extra_args_support(transform)

  def init(params: optax.Params) -> optax.OptState:
    return inner.init(to_dense(params, layers))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    **extra: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    dense = None if params is None else to_dense(params, layers)
    updates, state = inner.update(updates, state, dense, **extra)
    return to_spectral(updates, layers), state

  return optax.GradientTransformationExtraArgs(init, update)
