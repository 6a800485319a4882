"""Transforms of whole kernels' gradients, for any model and any transform."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.fft

from spectral_jax import Selection, SpectralKernel, on_kernels, to_dense

SELECTION = Selection.of('random', (6, 8), keep=0.5)
LAYERS = {'mlp': SpectralKernel(SELECTION)}
PARAMS = {'mlp': {'coefficients': jnp.arange(24.0), 'bias': jnp.ones(8)}}


def _gradients(seed: int) -> optax.Updates:
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
    to_dense(PARAMS, LAYERS),
  )


def test_a_transform_sees_the_dense_model_and_its_updates_are_projected() -> (
  None
):
  seen = []

  def double(updates: optax.Updates, params: optax.Params) -> optax.Updates:
    seen.append(params)
    return jax.tree.map(lambda u: 2 * u, updates)

  tx = on_kernels(optax.stateless(double), LAYERS)
  grads = _gradients(0)
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  plane = scipy.fft.dctn(np.asarray(grads['mlp']['kernel']), norm='ortho')
  np.testing.assert_allclose(
    updates['mlp']['coefficients'],
    2 * plane.flat[SELECTION.positions],
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_array_equal(
    updates['mlp']['bias'], 2 * grads['mlp']['bias']
  )
  (params,) = seen
  np.testing.assert_allclose(
    params['mlp']['kernel'], to_dense(PARAMS, LAYERS)['mlp']['kernel']
  )
  updates, _ = tx.update(grads, tx.init(PARAMS))
  assert seen.pop() is None


def test_moments_are_those_of_kernels() -> None:
  tx = on_kernels(optax.trace(0.9), LAYERS)
  state = tx.init(PARAMS)
  assert state.trace['mlp']['kernel'].shape == (6, 8)
  for seed in (0, 1):
    _, state = tx.update(_gradients(seed), state)
  expected = jax.tree.map(
    lambda a, b: 0.9 * a + b, _gradients(0), _gradients(1)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    state.trace,
    expected,
  )


def test_a_transform_gets_what_it_is_given_beside_gradients() -> None:
  def by_loss(
    updates: optax.Updates, state: tuple[()], _: optax.Params, *, loss: float
  ) -> tuple[optax.Updates, tuple[()]]:
    return jax.tree.map(lambda u: loss * u, updates), state

  inner = optax.GradientTransformationExtraArgs(lambda _: (), by_loss)
  tx = on_kernels(optax.chain(inner, optax.sgd(1.0)), LAYERS)
  grads = _gradients(0)
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, loss=3.0)
  np.testing.assert_allclose(
    updates['mlp']['bias'], -3 * grads['mlp']['bias'], rtol=1e-6
  )
