"""Text from a model, against the plain loop that it stands for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.generate import generate
from spectral_jax.models.transformer import Transformer, TransformerConfig

CONTEXT = 6
MODEL = Transformer(
  11,
  TransformerConfig(
    context=CONTEXT,
    width=8,
    layers=1,
    heads=2,
    linear=LinearConfig(selection='strided'),
  ),
)
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def params() -> Any:
  tokens = np.zeros((1, CONTEXT), np.int32)
  shapes = jax.eval_shape(MODEL.init, KEY, tokens)['params']
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes
  )
  # Or one token is the likeliest whatever went before.
  drawn['final_norm']['bias'] *= 0
  return drawn


@pytest.mark.parametrize('prompt_length', [1, 9])
def test_greedy_text_equals_a_plain_loop_beyond_the_context(
  prompt_length: int, params: Any
) -> None:
  prompt = np.random.default_rng(1).integers(11, size=prompt_length)
  apply = jax.jit(MODEL.apply)
  text = prompt.tolist()
  for _ in range(10):
    seen = np.array([text[-CONTEXT:]], np.int32)
    logits = apply({'params': params}, seen)
    text.append(int(logits[0, -1].argmax()))
  tokens = generate(MODEL, params, prompt, length=10, key=KEY, temperature=0)
  assert tokens.dtype == np.int32
  assert tokens.tolist() == text[prompt_length:]
  assert len(set(text[prompt_length:])) > 1  # no fixed point hides a mistake


def test_draws_follow_the_key(params: Any) -> None:
  def draw(seed: int) -> list[int]:
    tokens = generate(
      MODEL,
      params,
      np.array([1, 2]),
      length=8,
      key=jax.random.key(seed),
      temperature=2.0,
    )
    return tokens.tolist()

  assert draw(0) == draw(0)
  assert len({tuple(draw(seed)) for seed in range(5)}) == 5


def test_temperature_goes_from_the_likeliest_to_uniform(params: Any) -> None:
  cold, colder, hot = (
    generate(
      MODEL, params, np.array([3, 1]), length=440, key=KEY, temperature=t
    )
    for t in (0.0, 1e-4, 1e4)
  )
  np.testing.assert_array_equal(cold, colder)
  # 40 of each on average; five standard deviations are 30.
  assert np.abs(np.bincount(hot, minlength=11) - 40).max() < 30


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prompt': np.array([], np.int32)}, '^prompt: expected at least one'),
    ({'length': 0}, '^length: expected at least 1, got 0'),
    ({'temperature': -0.1}, '^temperature: expected 0 or more, got -0.1'),
    ({'temperature': float('nan')}, '^temperature: .*got nan'),
  ],
)
def test_impossible_arguments_raise(
  changes: dict[str, Any], message: str, params: Any
) -> None:
  arguments = {'prompt': np.array([1]), 'length': 3, 'key': KEY} | changes
  with pytest.raises(ValueError, match=message):
    generate(MODEL, params, **arguments)
