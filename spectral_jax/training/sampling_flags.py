"""The flags that say which text is to be generated."""

import dataclasses
import math
from typing import Any

from absl import flags

from spectral_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Which text a trained model is to generate.

  Attributes:
    prompt: what it goes on from; by default, as a text begins.
    length: tokens to generate.
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: draws from so many likeliest tokens; 0 for all.
    top_p: draws from the likeliest tokens that together have this probability.
    seed: draws the text.
    stop: ends a text before it says this.
    samples: how many texts.
    weights: how they lie in memory: auto, merged or coefficients.
    memory: bytes that they may take; None for any.
  """

  prompt: str | None = None
  length: int = 400
  temperature: float = 0.8
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  stop: str | None = None
  samples: int = 1
  weights: str = 'auto'
  memory: int | None = None


def define() -> None:
  """Defines them."""
  flags.DEFINE_string(
    'prompt', None, 'For sample: the text to go on from; by default a new line.'
  )
  flags.DEFINE_integer(
    'length', Sampling.length, 'For sample: tokens to generate.', lower_bound=1
  )
  flags.DEFINE_float(
    'temperature',
    Sampling.temperature,
    'For sample: divides the logits; 0 takes the likeliest token.',
    lower_bound=0.0,
  )
  flags.DEFINE_integer(
    'top_k',
    Sampling.top_k,
    'For sample: draws from so many likeliest tokens; 0 for all.',
    lower_bound=0,
    upper_bound=2**31 - 1,
  )
  flags.DEFINE_float(
    'top_p',
    Sampling.top_p,
    'For sample: draws from the likeliest tokens that together have this '
    'probability; 1 for all.',
  )
  flags.DEFINE_string(
    'stop', None, 'For sample: ends a text before it says this.'
  )
  flags.DEFINE_integer(
    'samples',
    Sampling.samples,
    'For sample: texts to generate at once.',
    lower_bound=1,
  )
  flags.DEFINE_enum(
    'weights',
    Sampling.weights,
    ['auto', 'merged', 'coefficients'],
    'For sample: kernels rebuilt once (merged, the fastest), or never '
    '(coefficients, the smallest); auto merges if that fits in --memory.',
  )
  flags.DEFINE_integer(
    'memory',
    Sampling.memory,
    'For sample: bytes that the weights may take; by default any.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'seed',
    0,
    'For sample: draws the text.',
    lower_bound=0,
    upper_bound=2**32 - 1,
  )


def given() -> Sampling:
  """What the parsed flags say of the text to generate.

  Raises:
    UserError: for a number that is none, or out of its range.
  """
  values = flags.FLAGS
  if not math.isfinite(values.temperature):
    raise UserError(
      f'--temperature: expected 0 or more, got {values.temperature}.'
    )
  if not 0 < values.top_p <= 1:
    raise UserError(
      f'--top_p: expected a number above 0 and up to 1, got {values.top_p}.'
    )
  if values.stop == '':
    raise UserError('--stop: expected some text, got none.')
  names = (field.name for field in dataclasses.fields(Sampling))
  fields: dict[str, Any] = {name: values[name].value for name in names}
  return Sampling(**fields)
