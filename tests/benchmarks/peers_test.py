"""PyTorch's peers compute what ours do, so that their times can be compared.

Run where PyTorch is: pip install -r requirements-peers.txt
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import Selection
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.settings import Settings

torch = pytest.importorskip(
  'torch', reason='pip install -r requirements-peers.txt'
)

from benchmarks import peer_layer, peers  # noqa: E402 (they import PyTorch)

CONFIG = TransformerConfig(
  context=16, width=32, layers=2, heads=4, linear=LinearConfig('dense')
)


def _draw(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope='module')
def both() -> tuple[Transformer, Any, Any]:
  """Our model, its parameters, and the peer that has taken them."""
  model = Transformer(peers.VOCABULARY, CONFIG)
  tokens = jnp.zeros((1, CONFIG.context), jnp.int32)
  params = model.init(jax.random.key(0), tokens)['params']
  # Biases too are to matter.
  params = jax.tree.map(lambda x: x + 0.1 * _draw(*x.shape), params)
  peer = peers.Transformer(peers.VOCABULARY, CONFIG)
  peer.load_ours(params)
  return model, params, peer


TOKENS = np.random.default_rng(1).integers(
  65, size=(3, CONFIG.context), dtype=np.int32
)


def test_logits_are_equal(both: tuple[Transformer, Any, Any]) -> None:
  model, params, peer = both
  with torch.no_grad():
    logits = peer(torch.from_numpy(TOKENS).long()).numpy()
  ours = model.apply({'params': params}, TOKENS)
  np.testing.assert_allclose(logits, ours, atol=1e-4)


def test_so_are_the_losses_of_its_steps(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """By one optimizer: our schedule's peak is PyTorch's only rate."""
  config = base.get_config()
  config.model.update({'context': 16, 'width': 32, 'layers': 2})
  config.model.linear.kind = 'dense'
  settings = Settings.from_mapping(config.to_dict())
  monkeypatch.setattr(
    'spectral_jax.training.optimizer.learning_rate_schedule',
    lambda *_: optax.constant_schedule(1.0),
  )
  model = Transformer(peers.VOCABULARY, settings.model)
  params = model.init(jax.random.key(0), TOKENS)['params']
  optimizer = make_optimizer(settings.optimizer, 100, params, {})

  @jax.jit
  def step(params: Any, state: Any) -> Any:
    def loss_of(params: Any) -> jax.Array:
      logits = model.apply({'params': params}, TOKENS)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, TOKENS
      ).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  peer = peers.Transformer(peers.VOCABULARY, settings.model)
  peer.load_ours(params)
  monkeypatch.setattr(peers, 'Transformer', lambda *_: peer)
  take_step = peers.train_steps(settings, TOKENS)
  state, losses = optimizer.init(params), []
  for _ in range(4):
    params, state, loss = step(params, state)
    losses.append((float(loss), take_step()))
  np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-3)
  assert losses[-1][0] < losses[0][0]


@pytest.mark.parametrize('method', peer_layer.METHODS)
@pytest.mark.parametrize('shape', [(6, 8), (7, 5)])
def test_kernels_and_their_gradients_are_equal(
  method: str, shape: tuple[int, int]
) -> None:
  selection = Selection.of('random', shape, 0.5)
  coefficients, cotangent = _draw(selection.count), _draw(*shape)
  ours, pull_back = jax.vjp(
    lambda c: kernel_from_coefficients(c, selection, 'idctn'), coefficients
  )
  stored = torch.from_numpy(coefficients).requires_grad_()
  kernel = peer_layer.rebuilder(selection, method)(stored)
  np.testing.assert_allclose(kernel.detach().numpy(), ours, atol=1e-5)
  (gradient,) = torch.autograd.grad(
    kernel, (stored,), torch.from_numpy(cotangent)
  )
  (expected,) = pull_back(cotangent)
  np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-5)


def test_what_the_model_has_not() -> None:
  assert peers.unlike(CONFIG) == ''
  assert peers.unlike(TransformerConfig(dropout=0.1)) == 'dropout=0.1'
