"""Generating text: dense against spectral, by how the weights lie in memory.

  python -m benchmarks.decode [--batch_sizes=1,8,64] [--selections=strided/2]

Every contender decodes 16 tokens for each sample in turn, from the middle of
the context on, by greedy choice, so that they share the machine's moods; read
the ratios. `uncached` is the loop without a cache: a forward pass of the whole
window for each token. Beside the times stand bytes: of the parameters; at the
peak, with the constants and the temporaries of the program, but without the
cache; and read of parameters for a step. Of layers alone is the peak without
what a dense model has beside its kernels: embeddings, head, norms, and
temporaries. Flags of train.py come after `--`, for another model, as `--
--config.model.width=512 --config.model.layers=2`.
"""

import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import contenders, timing
from benchmarks.arguments import fail, parse_flags
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.generate import CHUNK, decode
from spectral_jax.models.sampling import SamplingRule, keys_of_samples
from spectral_jax.models.stored import (
  abstract_params,
  kernel_count,
  with_linear,
)
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.models.weights import place_weights

_ROUNDS = flags.DEFINE_integer('rounds', 25, 'Counted calls.', lower_bound=1)
_BATCHES = flags.DEFINE_list('batch_sizes', '1,8,64', 'Samples at once.')
_SELECTIONS = flags.DEFINE_list(
  'selections',
  'strided/2,strided/4,random/2,random/4,lowpass/4',
  'KIND/B keeps nm/B.',
)


def _draw(model: Transformer) -> Any:
  """Parameters, drawn alike: their values are no matter."""
  draw = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.05 * draw.normal(size=leaf.shape), leaf.dtype),
    abstract_params(model),
  )


class Decoder:
  """A model that has half a context behind it.

  Args:
    model: of which parameters are drawn.
    samples: B.
    weights: how the parameters lie in memory.
  """

  def __init__(self, model: Transformer, samples: int, weights: str) -> None:
    self._model, self._params = place_weights(model, _draw(model), weights)
    self._cache: Any = self._model.empty_cache(samples)
    self._rest = (
      np.int32(model.config.context // 2),
      np.zeros(samples, np.int32),
      keys_of_samples(jax.random.key(0), samples),
      np.int32(0),
      SamplingRule.of(0.0, 0, 1.0),
      np.int32(min(CHUNK, model.config.context // 2)),
    )

  def __call__(self) -> Any:
    """The next tokens, the cache being written anew from its middle on."""
    self._cache, tokens_BxC = decode(
      self._model, self._params, self._cache, *self._rest
    )
    return tokens_BxC

  @property
  def kernel_bytes(self) -> int:
    """What a dense model's kernels take, those of the blocks."""
    return 4 * kernel_count(self._model.config)

  def sizes(self) -> dict[str, int]:
    """Bytes: of parameters, constants and temporaries."""
    compiled = decode.lower(
      self._model, self._params, self._cache, *self._rest
    ).compile()
    memory: Any = compiled.memory_analysis()
    return {
      'parameters': sum(leaf.nbytes for leaf in jax.tree.leaves(self._params)),
      'constants': _constants(compiled.as_text() or ''),
      'temporaries': memory.temp_size_in_bytes,
    }


def _constants(program: str) -> int:
  """Bytes of the constants in a program's text."""
  total = 0
  for kind, sizes in re.findall(r'= (\w+)\[([\d,]*)\]\S* constant\(', program):
    bits = int(re.sub(r'\D', '', kind) or 8)
    total += bits // 8 * int(np.prod([int(s) for s in sizes.split(',') if s]))
  return total


def _uncached(model: Transformer, samples: int) -> Callable[[], Any]:
  """A function that draws the next tokens by whole forward passes."""
  context = model.config.context
  window_BxT = jnp.zeros((samples, context), jnp.int32)
  params, start = _draw(model), context // 2

  @jax.jit
  def run(params: Any, window_BxT: jax.Array) -> jax.Array:
    def step(i: jax.Array, window_BxT: jax.Array) -> jax.Array:
      logits_BxTxV: Any = model.apply({'params': params}, window_BxT)
      token_B = logits_BxTxV[:, start + i].argmax(-1).astype(jnp.int32)
      return window_BxT.at[:, start + i + 1].set(token_B)

    return jax.lax.fori_loop(0, min(CHUNK, context // 2), step, window_BxT)

  return lambda: run(params, window_BxT)


def _print_speeds(
  samples: int, steps: int, times: dict[str, list[float]]
) -> None:
  dense = statistics.median(times['dense'])
  print(f'\n| {samples} at once | tokens/s | ms a step | ratio to dense |')
  print('|---|---|---|---|')
  for name, values in times.items():
    median = statistics.median(values)
    print(
      f'| {name} | {1e3 * steps * samples / median:,.0f} | '
      f'{median / steps:.3f} | {median / dense:.3f} |'
    )


def _print_sizes(decoders: dict[str, Decoder]) -> None:
  """Prints bytes; of layers alone what they add to a model without any."""
  print(
    '\n| 1 at once, KiB | parameters, read in a step | constants | '
    'temporaries | peak | of dense | of layers alone | of dense kernels |'
  )
  print('|---|---|---|---|---|---|---|---|')
  sizes = {name: decoder.sizes() for name, decoder in decoders.items()}
  dense = next(iter(sizes.values()))
  kernels = next(iter(decoders.values())).kernel_bytes
  without = sum(dense.values()) - kernels
  for name, each in sizes.items():
    peak = sum(each.values())
    cells = ' | '.join(f'{size / 1024:,.0f}' for size in each.values())
    print(
      f'| {name} | {cells} | {peak / 1024:,.0f} | '
      f'{peak / sum(dense.values()):.3f} | {(peak - without) / 1024:,.0f} | '
      f'{(peak - without) / kernels:.3f} |'
    )


def _decoders(
  config: TransformerConfig, linears: dict[str, LinearConfig], samples: int
) -> dict[str, Decoder]:
  """Dense; one that is merged, which are all alike; and coefficients of all."""
  dense = Transformer(contenders.VOCABULARY, config)
  first = next(iter(linears))
  chosen = [(first, 'merged'), *((name, 'coefficients') for name in linears)]
  return {'dense': Decoder(dense, samples, 'merged')} | {
    f'{name}, {weights}': Decoder(
      with_linear(dense, linears[name]), samples, weights
    )
    for name, weights in chosen
  }


def main(argv: Sequence[str]) -> None:
  """Times the contenders for each number of samples, and tells their sizes."""
  linears = contenders.parse_selections(_SELECTIONS.value)
  settings = contenders.read_settings(1, argv[1:])
  config = settings.model
  if config.context < 2 * CHUNK:
    fail(f'config.model.context: expected at least {2 * CHUNK}.')
  batches = [int(size) for size in _BATCHES.value if size.isdecimal()]
  if len(batches) < len(_BATCHES.value) or 0 in batches:
    fail(f'--batch_sizes: expected numbers, got {_BATCHES.value}.')
  timing.print_machine()
  for samples in batches:
    try:
      decoders = _decoders(config, linears, samples)
    except ValueError as error:
      fail(f'--selections: {error}')
    dense = Transformer(contenders.VOCABULARY, config)
    times = timing.interleave(
      decoders | {'uncached, dense': _uncached(dense, samples)}, _ROUNDS.value
    )
    _print_speeds(samples, CHUNK, times)
  _print_sizes(_decoders(config, linears, 1))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
