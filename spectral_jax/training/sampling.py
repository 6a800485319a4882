"""Text that a trained model writes: into a file, or onto a terminal."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from spectral_jax.data.text_stream import TextStream
from spectral_jax.data.tokenizer import Tokenizer
from spectral_jax.errors import UserError
from spectral_jax.models.generate import stream
from spectral_jax.models.sampling import SamplingRule
from spectral_jax.models.weights import place_weights
from spectral_jax.training import console, processes
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.sampling_flags import Sampling


def _prompt_tokens(
  tokenizer: Tokenizer, prompt: str | None
) -> NDArray[np.int32]:
  """What a text goes on from: of documents, the beginning of one.

  Without a prompt that is a new line, or the vocabulary's first character.
  """
  if tokenizer.separator is not None:
    tokens = tokenizer.encode(prompt or '')
    return np.concatenate([[tokenizer.separator], tokens]).astype(np.int32)
  if prompt:
    return tokenizer.encode(prompt)
  try:
    return tokenizer.encode('\n')
  except UserError:  # a text of one line
    return np.zeros(1, np.int32)


def _stream(
  experiment: Experiment,
  params: Any,
  prompt: NDArray[np.int32],
  sampling: Sampling,
) -> Iterator[NDArray[np.int32]]:
  try:
    model, params = place_weights(
      experiment.model, params, sampling.weights, sampling.memory
    )
  except ValueError as error:
    raise UserError(f'--{error}') from None
  return stream(
    model,
    params,
    prompt,
    length=sampling.length,
    key=jax.random.key(sampling.seed),
    samples=sampling.samples,
    rule=SamplingRule.of(sampling.temperature, sampling.top_k, sampling.top_p),
  )


def sample_text(experiment: Experiment, params: Any, sampling: Sampling) -> str:
  """The prompt and the tokens generated after it, as one text.

  Raises:
    UserError: if the tokenizer does not know a character of the prompt, or the
      weights do not fit in the memory.
  """
  prompt = _prompt_tokens(experiment.tokenizer, sampling.prompt)
  (following,) = np.concatenate(
    list(_stream(experiment, params, prompt, sampling)), axis=1
  )
  return experiment.tokenizer.decode(np.concatenate([prompt, following]))


def print_samples(
  experiment: Experiment, params: Any, sampling: Sampling, step: int
) -> None:
  """Prints the prompt and what follows it, the first text as it comes.

  Texts but the first are printed when all have ended, each after a line with
  its number. What is told of them, the step and the speed, is on standard
  error. All processes call it, the first prints.

  Raises:
    UserError: if the tokenizer does not know a character of the prompt, or the
      weights do not fit in the memory.
  """
  tokenizer, count = experiment.tokenizer, sampling.samples
  prompt = _prompt_tokens(tokenizer, sampling.prompt)
  first = processes.is_first()
  show = console.print_text if first else _nothing
  tell = console.print_aside if first else _nothing
  streams = [TextStream(tokenizer, prompt, sampling.stop) for _ in range(count)]
  # Of each text what is not printed yet.
  texts = [
    _title(row, count) + tokenizer.decode(prompt) for row in range(count)
  ]
  portions = _stream(experiment, params, prompt, sampling)
  tell(f'step {step}')
  drawn, times = [], [time.perf_counter()]
  for tokens_Bxc in portions:
    times.append(time.perf_counter())
    going_on = sum(not text.ended for text in streams)
    drawn.append(going_on * tokens_Bxc.shape[1])
    for row, text in enumerate(streams):
      texts[row] += text.push(tokens_Bxc[row])
    show(texts[0])
    texts[0] = ''
    if all(text.ended for text in streams):
      break
  for row, text in enumerate(streams):
    show(texts[row] + text.close() + '\n')
  tell(_speed(drawn, times))


def _title(row: int, count: int) -> str:
  return f'--- sample {row + 1} of {count} ---\n' if count > 1 else ''


def _speed(drawn: list[int], times: list[float]) -> str:
  """What to tell of calls that drew so many tokens between these times."""
  told = f'{sum(drawn):,} tokens in {times[-1] - times[0]:.2f} s'
  if len(drawn) == 1:
    return told
  rest, seconds = sum(drawn[1:]), times[-1] - times[1]
  return f'{told}; {rest / seconds:,.0f} tokens/s after the first {drawn[0]}'


def _nothing(text: str) -> None:
  """Another process than the first prints nothing."""
