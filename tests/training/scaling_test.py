"""One learning rate for every K: in closed form, and on a model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spectral_jax import Selection, SpectralDense, scale_by_selection

N, M, KEEPS = 48, 64, (1.0, 0.5, 0.25, 0.125)


@pytest.mark.parametrize('kind', ['random', 'strided', 'band'])
@pytest.mark.parametrize('keep', KEEPS)
def test_the_factor_is_one_over_keep(kind: str, keep: float) -> None:
  assert Selection.of(kind, (N, M), keep).update_scale == 1 / keep


def _descent(kind: str, keep: float, *, rule: bool) -> float:
  """How far eight small steps of Adam bring a regression's loss down."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(256, N)), jnp.float32)
  y = x @ rng.normal(size=(N, M)).astype(np.float32)
  layer = SpectralDense(M, use_bias=False, keep=keep, selection=kind)
  params = layer.init(jax.random.key(0), x)
  selection = Selection.of(kind, (N, M), keep)
  scale = scale_by_selection({'params': {'coefficients': selection}})
  optimizer = optax.chain(
    optax.scale_by_adam(),
    scale if rule else optax.identity(),
    optax.scale(-1e-3),
  )

  def loss(params: optax.Params) -> jax.Array:
    return jnp.mean((layer.apply(params, x) - y) ** 2)

  @jax.jit
  def step(
    params: optax.Params, state: optax.OptState
  ) -> tuple[optax.Params, optax.OptState]:
    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  before = loss(params)
  for _ in range(8):
    params, state = step(params, state)
  return float(before - loss(params))


@pytest.mark.parametrize('kind', ['random', 'strided', 'band'])
def test_the_coordinate_check(kind: str) -> None:
  dense = _descent('random', 1.0, rule=True)
  for keep in KEEPS[1:]:
    with_rule = _descent(kind, keep, rule=True)
    assert with_rule == pytest.approx(dense, rel=0.15), keep
    without = _descent(kind, keep, rule=False)
    assert without == pytest.approx(keep * dense, rel=0.15), keep
