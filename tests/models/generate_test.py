"""Text from a model, against the plain loop that it stands for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models import generate as module
from spectral_jax.models.generate import generate, slide, stream
from spectral_jax.models.sampling import SamplingRule, draw, keys_of_samples
from spectral_jax.models.transformer import Transformer, TransformerConfig

CONTEXT, VOCABULARY = 10, 11
KEY = jax.random.key(0)


def make_model(context: int = CONTEXT, **fields: Any) -> Transformer:
  config = TransformerConfig(
    context=context,
    width=8,
    layers=2,
    heads=2,
    linear=LinearConfig(selection='strided'),
    **fields,
  )
  return Transformer(VOCABULARY, config)


def draw_params(model: Transformer) -> Any:
  tokens = np.zeros((1, model.config.context), np.int32)
  shapes = jax.eval_shape(model.init, KEY, tokens)['params']
  rng = np.random.default_rng(3)
  drawn = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
    shapes,
  )
  # Or one token is the likeliest whatever went before.
  drawn['final_norm']['bias'] *= 0
  drawn['embed']['embedding'] *= 3
  return drawn


MODEL = make_model()


@pytest.fixture(scope='module')
def params() -> Any:
  return draw_params(MODEL)


def plain_loop(
  model: Transformer,
  params: Any,
  prompt: np.ndarray,
  length: int,
  temperature: float,
) -> list[int]:
  """A whole forward pass for every token, on what the window then holds."""
  context = model.config.context
  rule = SamplingRule.of(temperature, 0, 1.0)
  keys = keys_of_samples(KEY, 1)

  @jax.jit
  def following(window: Any, filled: Any, place: Any) -> jax.Array:
    logits = model.apply({'params': params}, window)[:, filled - 1]
    return draw(logits, jax.random.fold_in(keys[0], place)[None], rule)

  window, text = prompt.tolist()[-context:], []
  for place in range(length):
    if len(window) > context:
      window = window[slide(context) :]
    padded = np.zeros((1, context), np.int32)
    padded[0, : len(window)] = window
    text.append(int(following(padded, len(window), place)[0]))
    window.append(text[-1])
  return text


@pytest.mark.parametrize(
  ('context', 'prompt_length', 'fields'),
  [
    (CONTEXT, 1, {}),
    (CONTEXT, 27, {'scan': True, 'remat': True, 'qkv': 'separate'}),
    (7, 7, {}),
    (1, 3, {}),
  ],
)
def test_text_equals_a_plain_loop_s_beyond_the_context(
  context: int, prompt_length: int, fields: dict[str, Any]
) -> None:
  model = make_model(context, **fields)
  params = draw_params(model)
  prompt = np.random.default_rng(1).integers(VOCABULARY, size=prompt_length)
  for temperature in (0.0, 1.0):
    expected = plain_loop(model, params, prompt, 500, temperature)
    tokens = generate(
      *(model, params, prompt), length=500, key=KEY, temperature=temperature
    )
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [expected]
    # No fixed point hides a mistake.
    assert len(set(expected)) >= (VOCABULARY if temperature else 2)


def test_two_programs_serve_all_prompts_and_rules(params: Any) -> None:
  model = MODEL.copy(vocabulary=VOCABULARY)  # equal, so not a new one
  compiled = []
  for prompt_length, rule in (
    (1, {'temperature': 0.0}),
    (6, {'temperature': 1.0, 'top_k': 3}),
    (CONTEXT, {'top_p': 0.5}),
    (25, {}),
  ):
    generate(
      model,
      params,
      np.ones(prompt_length, np.int32),
      length=5 + 9 * prompt_length,
      key=jax.random.key(prompt_length),
      samples=3,
      **rule,
    )
    compiled.append((module.encode._cache_size(), module.decode._cache_size()))
  assert len(set(compiled)) == 1, compiled


def test_draws_follow_the_key_the_sample_and_the_place(params: Any) -> None:
  def sample(seed: int, samples: int, length: int = 30) -> list[list[int]]:
    tokens = generate(
      *(MODEL, params, np.array([1, 2])),
      length=length,
      key=jax.random.key(seed),
      samples=samples,
      temperature=2.0,
    )
    return tokens.tolist()

  three = sample(0, 3)
  assert len(set(map(tuple, three))) == 3
  assert sample(0, 1) == three[:1]
  assert sample(0, 3, length=11) == [row[:11] for row in three]
  assert sample(1, 3)[0] not in three


def test_a_stream_comes_in_small_portions(params: Any) -> None:
  rule = SamplingRule.of(1.0, 0, 1.0)
  arguments: dict[str, Any] = {'length': 50, 'key': KEY, 'samples': 2}
  prompt = np.array([3])
  portions = list(stream(MODEL, params, prompt, rule=rule, **arguments))
  assert max(portion.shape[1] for portion in portions) <= module.CHUNK
  whole = generate(MODEL, params, prompt, temperature=1.0, **arguments)
  np.testing.assert_array_equal(np.concatenate(portions, axis=1), whole)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prompt': np.array([], np.int32)}, '^prompt: expected at least one'),
    ({'length': 0}, '^length: expected at least 1, got 0'),
    ({'samples': 0}, '^samples: expected at least 1, got 0'),
    ({'temperature': -0.1}, '^temperature: expected 0 or more, got -0.1'),
    ({'temperature': float('nan')}, '^temperature: .*got nan'),
    ({'top_k': -1}, '^top_k: expected 0 .*got -1'),
    ({'top_p': 0.0}, '^top_p: expected above 0 .*got 0.0'),
  ],
)
def test_impossible_arguments_raise(
  changes: dict[str, Any], message: str, params: Any
) -> None:
  arguments = {'prompt': np.array([1]), 'length': 3, 'key': KEY} | changes
  with pytest.raises(ValueError, match=message):
    generate(MODEL, params, **arguments)
