"""How tokens are drawn, against chances worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.models.sampling import SamplingRule, draw, keys_of_samples

SAMPLES = 4000
CHANCES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
KEYS = keys_of_samples(jax.random.key(0), SAMPLES)
_DRAW = jax.jit(draw)


def frequencies(
  temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
  logits = jnp.log(jnp.broadcast_to(CHANCES, (SAMPLES, 5)))
  tokens = _DRAW(logits, KEYS, SamplingRule.of(temperature, top_k, top_p))
  assert tokens.dtype == jnp.int32
  return np.bincount(tokens, minlength=5) / SAMPLES


@pytest.mark.parametrize(
  ('rule', 'expected'),
  [
    ({}, CHANCES),
    ({'temperature': 0.0}, [0, 1, 0, 0, 0]),
    ({'temperature': 1e-3}, [0, 1, 0, 0, 0]),
    ({'temperature': 1e4}, [0.2] * 5),
    ({'temperature': 0.5}, CHANCES**2),
    ({'top_k': 1}, [0, 1, 0, 0, 0]),
    ({'top_k': 3}, [0, 0.4, 0, 0.25, 0.2]),
    ({'top_k': 9}, CHANCES),
    ({'top_p': 0.01}, [0, 1, 0, 0, 0]),
    ({'top_p': 0.6}, [0, 0.4, 0, 0.25, 0]),
    ({'top_p': 0.7}, [0, 0.4, 0, 0.25, 0.2]),
    # Of three tokens, which are then 0.47, 0.29 and 0.24 likely.
    ({'top_k': 3, 'top_p': 0.7}, [0, 0.4, 0, 0.25, 0]),
    # Of chances that a temperature has made 0.59, 0.23 and less.
    ({'temperature': 0.5, 'top_p': 0.55}, [0, 1, 0, 0, 0]),
  ],
)
def test_tokens_come_as_often_as_they_should(
  rule: dict[str, float], expected: list[float]
) -> None:
  found = frequencies(**rule)  # type: ignore[arg-type]
  chances = np.asarray(expected) / np.sum(expected)
  assert not found[chances == 0].any()
  # Four standard deviations at the most.
  np.testing.assert_allclose(found, chances, atol=4 * 0.5 / SAMPLES**0.5)


def test_one_program_serves_all_rules() -> None:
  frequencies()
  before = _DRAW._cache_size()
  frequencies(temperature=0.7, top_k=2, top_p=0.9)
  assert _DRAW._cache_size() == before


def test_tokens_that_tie_with_the_last_stay() -> None:
  logits = jnp.zeros((SAMPLES, 5)).at[:, 2].set(-9.0)
  tokens = _DRAW(logits, KEYS, SamplingRule.of(1.0, 2, 1.0))
  assert set(np.unique(tokens)) == {0, 1, 3, 4}
