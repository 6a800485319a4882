"""Side by side in one run: the only timing that a noisy machine allows."""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import jax

from spectral_jax.training.machine import machine_facts


def interleave(
  contenders: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
  """Times contenders in turn, after two uncounted rounds.

  Each round has an order of its own, for who comes after whom can matter:
  threads of one that wait actively slow down the next.

  Args:
    contenders: functions without arguments that return arrays to wait for.
    rounds: counted calls of each.

  Returns:
    Milliseconds of each call, by name.
  """
  times: dict[str, list[float]] = {name: [] for name in contenders}
  shuffle = random.Random(0).sample
  for turn in range(rounds + 2):
    for name, contender in shuffle(list(contenders.items()), len(contenders)):
      started = time.perf_counter()
      jax.block_until_ready(contender())
      if turn >= 2:
        times[name].append(1e3 * (time.perf_counter() - started))
  return times


def print_ratios(
  title: str,
  times: Mapping[str, list[float]],
  shares: Mapping[str, str] | None = None,
  roofline: str = '',
) -> None:
  """Prints medians and their ratios to the first contender, in Markdown.

  Args:
    title: of the table.
    times: milliseconds, by contender.
    shares: of the roofline, where they are known; by default no such column.
    roofline: its rates.
  """
  first = statistics.median(next(iter(times.values())))
  head = [title, 'median ms', 'fastest ms', 'ratio of medians']
  head += [] if shares is None else [f'share of {roofline}']
  print(f'\n| {" | ".join(head)} |')
  print('|---' * len(head) + '|')
  for name, values in times.items():
    median = statistics.median(values)
    row = [name, f'{median:.2f}', f'{min(values):.2f}', f'{median / first:.3f}']
    row += [] if shares is None else [shares.get(name, '–')]
    print(f'| {" | ".join(row)} |')


def print_machine() -> None:
  """Prints what a figure cannot be read without."""
  facts = machine_facts()
  print(
    f'{facts["date"]}, jax {facts["jax"]}, Python {facts["python"]}, '
    f'{facts["device"]}'
  )
