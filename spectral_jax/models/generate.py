"""Text from a trained transformer: keys and values are kept, not recomputed.

Positions are learned up to the context, so the keys and values of a token are
of use only while it keeps its place. The window of tokens that a prediction
sees therefore begins with the prompt's last T tokens, grows to T, and then
slides by half of it: the oldest go, and the rest are encoded anew.

Shapes: B samples; T the model's context; P tokens of a prompt that are encoded
at once; C tokens that are drawn in one call; L tokens to generate.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from spectral_jax.models.attention import Cache
from spectral_jax.models.sampling import SamplingRule, draw, keys_of_samples
from spectral_jax.models.transformer import Transformer
from spectral_jax.models.weights import place_weights

# C: few enough to read along, enough for the calls to cost nothing.
CHUNK = 16


def slide(context: int) -> int:
  """How many tokens leave a window of T before it takes another one."""
  return (context + 1) // 2


@functools.partial(jax.jit, static_argnames='model', donate_argnames='cache')
def encode(
  model: Transformer,
  params: Any,
  cache: dict[str, Cache],
  start: jax.Array,
  tokens_BxP: jax.Array,
) -> dict[str, Cache]:
  """Puts tokens after those of a cache."""
  result: Any = model.apply(
    {'params': params}, tokens_BxP, cache, start, method='extend'
  )
  return result[1]


@functools.partial(jax.jit, static_argnames='model', donate_argnames='cache')
def decode(
  model: Transformer,
  params: Any,
  cache: dict[str, Cache],
  start: jax.Array,
  token_B: jax.Array,
  keys_B: jax.Array,
  place: jax.Array,
  rule: SamplingRule,
  steps: jax.Array,
) -> tuple[dict[str, Cache], jax.Array]:
  """Puts a token after those of a cache and draws the next one, `steps` times.

  Args:
    model: gives the logits.
    params: its parameters.
    cache: of the tokens before.
    start: how many they are.
    token_B: the token after them.
    keys_B: of the draws of each sample.
    place: which of the tokens to generate is drawn first.
    rule: how.
    steps: C at the most.

  Returns:
    The cache, and [B, C], the first `steps` of each row drawn.
  """

  def step(i: jax.Array, carry: Any) -> Any:
    cache, token_B, drawn_BxC = carry
    logits_Bx1xV, cache = model.apply(
      {'params': params}, token_B[:, None], cache, start + i, method='extend'
    )
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys_B, place + i)
    token_B = draw(logits_Bx1xV[:, 0], keys, rule)
    return cache, token_B, drawn_BxC.at[:, i].set(token_B)

  drawn_BxC = jnp.zeros((len(token_B), CHUNK), jnp.int32)
  cache, _, drawn_BxC = jax.lax.fori_loop(
    0, steps, step, (cache, token_B, drawn_BxC)
  )
  return cache, drawn_BxC


def stream(
  model: Transformer,
  params: Any,
  prompt: np.ndarray,
  *,
  length: int,
  key: jax.Array,
  samples: int,
  rule: SamplingRule,
) -> Iterator[NDArray[np.int32]]:
  """Yields what `generate` returns, a few tokens [B, c] at a time.

  Raises:
    ValueError: at once, for an empty prompt, or a length or samples below 1.
  """
  if len(prompt) == 0:
    raise ValueError('prompt: expected at least one token, got none.')
  for name, count in (('length', length), ('samples', samples)):
    if count < 1:
      raise ValueError(f'{name}: expected at least 1, got {count}.')
  kept = np.asarray(prompt[-model.config.context :], np.int32)
  window_Bxt = np.broadcast_to(kept, (samples, len(kept)))
  keys_B = keys_of_samples(key, samples)
  return _stream(model, params, window_Bxt, length, keys_B, rule)


def _stream(
  model: Transformer,
  params: Any,
  window_Bxt: NDArray[np.int32],
  length: int,
  keys_B: jax.Array,
  rule: SamplingRule,
) -> Iterator[NDArray[np.int32]]:
  context = model.config.context
  cache = model.empty_cache(len(window_Bxt))
  # The last token of the window is in the cache only once it is decoded.
  cached, done = 0, 0
  while done < length:
    if window_Bxt.shape[1] > context:
      window_Bxt, cached = window_Bxt[:, slide(context) :], 0
    if cached < window_Bxt.shape[1] - 1:
      cache = _prefill(model, params, cache, window_Bxt[:, :-1])
      cached = window_Bxt.shape[1] - 1
    steps = min(CHUNK, length - done, context - cached)
    cache, drawn_BxC = decode(
      model,
      params,
      cache,
      np.int32(cached),
      window_Bxt[:, -1],
      keys_B,
      np.int32(done),
      rule,
      np.int32(steps),
    )
    drawn_Bxc = np.asarray(drawn_BxC)[:, :steps]
    window_Bxt = np.concatenate([window_Bxt, drawn_Bxc], axis=1)
    cached, done = cached + steps, done + steps
    yield drawn_Bxc


def _prefill(
  model: Transformer,
  params: Any,
  cache: dict[str, Cache],
  tokens_Bxt: NDArray[np.int32],
) -> dict[str, Cache]:
  """Encodes the first tokens of a window, in portions of one size.

  What pads the last portion takes places that are not seen before they are
  written again. A portion that would pass the context's end begins earlier.
  """
  context = model.config.context
  size = -(-context // 4)
  count = tokens_Bxt.shape[1]
  padded_BxT = np.pad(tokens_Bxt, ((0, 0), (0, context - count)))
  for start in range(0, count, size):
    start = min(start, context - size)
    portion_BxP = padded_BxT[:, start : start + size]
    cache = encode(model, params, cache, np.int32(start), portion_BxP)
  return cache


def generate(
  model: Transformer,
  params: Any,
  prompt: np.ndarray,
  *,
  length: int,
  key: jax.Array,
  samples: int = 1,
  temperature: float = 0.8,
  top_k: int = 0,
  top_p: float = 1.0,
  weights: str = 'auto',
  memory: int | None = None,
) -> NDArray[np.int32]:
  """Draws tokens, each given those of a window before it.

  The window begins with the prompt's last T tokens; where it holds T, the
  oldest half goes before it takes another. Two programs are compiled for a
  model and a number of samples, whatever the prompt and the other arguments.

  Args:
    model: gives the logits.
    params: its parameters.
    prompt: at least one token, int32.
    length: L.
    key: of the draws, of which each depends on the key, the sample's number and
      the place alone.
    samples: B, how many go on from the prompt, each in its way.
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: draws from so many likeliest tokens; 0 for all.
    top_p: draws from the likeliest tokens that together have this probability.
    weights: how they lie in memory, see `place_weights`, which spares many
      calls from placing them each time.
    memory: bytes that they may take.

  Returns:
    The tokens [B, L] that follow the prompt.

  Raises:
    ValueError: for an empty prompt, a number out of its range, or weights that
      do not fit in the memory.

  Example:
    >>> from spectral_jax.models.transformer import TransformerConfig
    >>> config = TransformerConfig(context=8, width=8, layers=1, heads=2)
    >>> model, key = Transformer(11, config), jax.random.key(0)
    >>> params = model.init(key, jnp.zeros((1, 8), jnp.int32))['params']
    >>> prompt = np.array([1, 2, 3])
    >>> generate(model, params, prompt, length=20, key=key, samples=2).shape
    (2, 20)
  """
  rule = SamplingRule.of(temperature, top_k, top_p)
  chunks = stream(
    *place_weights(model, params, weights, memory),
    prompt,
    length=length,
    key=key,
    samples=samples,
    rule=rule,
  )
  return np.concatenate(list(chunks), axis=1)
