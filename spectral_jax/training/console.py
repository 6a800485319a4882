"""What a run says on standard output: facts, progress, samples of text."""

import math
import os
import signal
import sys
from collections.abc import Mapping
from typing import Self

import rich.progress
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

# Generated text may hold control characters, and a terminal obeys them: show
# their pictures instead (U+2400 and on), the newline and the tab apart.
_VISIBLE = (
  {code: 0x2400 + code for code in range(0x20) if chr(code) not in '\n\t'}
  | {0x7F: 0x2421}
  | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)


def tell(line: str) -> None:
  """Prints a line, of any length, as it is."""
  _console().print(Text(line), soft_wrap=True)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
  """Prints names and values in two columns under a ruled title.

  A value is never cut or broken: a long path stays one line, which a narrow
  terminal wraps by itself, so that it can be copied whole.

  >>> print_facts('Run', {'steps': '1400', 'workdir': 'runs/plays'})
  ... # doctest: +ELLIPSIS
  Run ──...
  steps    1400
  workdir  runs/plays
  """
  console = _console()
  console.rule(Text(title, style='bold'), align='left')
  width = max(map(len, facts), default=0)
  for name, value in facts.items():
    console.print(
      Text.assemble((f'{name:<{width}}', 'cyan'), '  ', value), soft_wrap=True
    )


def print_sample(title: str, text: str) -> None:
  """Prints generated text in a panel, letter for letter.

  Square brackets are no markup, and control characters are shown, not obeyed.
  """
  panel = Panel(
    Text(text.translate(_VISIBLE)), title=Text(title), title_align='left'
  )
  _console().print(panel)


def print_text(text: str) -> None:
  """Prints generated text at once, on a terminal as `print_sample` shows it."""
  if sys.stdout.isatty():
    text = text.translate(_VISIBLE)
  print(text, end='', flush=True)


def print_aside(line: str) -> None:
  """Prints a line on standard error, where it is in no pipe's way."""
  print(line, file=sys.stderr, flush=True)


class Progress:
  """Shows how far training is: a live bar on a terminal, else plain lines.

  It is a context manager; on leaving, by an exception too, the terminal has its
  cursor back and the bar stays as it last was.

  Args:
    start_step: The step this run goes on from, 0 for a fresh one.
    steps: The step at which training ends.
    log_every: Where there is no terminal: steps between two lines.
  """

  def __init__(self, *, start_step: int, steps: int, log_every: int) -> None:
    self._console = _console()
    self._steps = steps
    self._log_every = log_every
    self._bar = rich.progress.Progress(
      rich.progress.MofNCompleteColumn(),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TextColumn('{task.fields[status]}'),
      rich.progress.TextColumn('left'),
      rich.progress.TimeRemainingColumn(compact=True),
      rich.progress.TextColumn('elapsed'),
      rich.progress.TimeElapsedColumn(),
      console=self._console,
      # Seconds looked back to tell the time left; long enough to hold several
      # updates of a slow run.
      speed_estimate_period=600.0,
      refresh_per_second=4,
      expand=True,
    )
    self._task = self._bar.add_task(
      '', total=steps, completed=start_step, status=''
    )

  def update(self, step: int, *, loss: float, tokens_per_second: float) -> None:
    """Reports that `step` steps are done; `loss` is in nats per token."""
    status = f'loss {loss:.3f}  tokens/s {tokens_per_second:,.0f}'
    self._bar.update(self._task, completed=step, status=status)
    if self._console.is_interactive:
      return
    if step % self._log_every == 0 or step == self._steps:
      left = clock(self._bar.tasks[0].time_remaining)
      self.say(f'step {step}/{self._steps}  {status}  left {left}')

  def say(self, line: str) -> None:
    """Prints a line, on a terminal above the bar."""
    self._console.print(Text(line), soft_wrap=True)

  def __enter__(self) -> Self:
    # Off a terminal the bar only keeps the time: it is never started.
    if self._console.is_interactive:
      self._bar.start()
    return self

  def __exit__(self, *exception: object) -> None:
    if self._console.is_interactive:
      self._bar.stop()


def show_cursor() -> None:
  """Gives a terminal its cursor back, where a progress bar is left behind."""
  _console().show_cursor()


class _Output(Console):
  """Standard output; `train.py | head` is no mistake."""

  def on_broken_pipe(self) -> None:
    """Ends as SIGTERM does, which has training saved first."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.raise_signal(signal.SIGTERM)


def _console() -> Console:
  # Made anew each time, so that it asks today's stdout what it can show.
  return _Output(highlight=False)


def clock(seconds: float | None) -> str:
  """Returns hours, minutes and seconds: '4:12', '1:04:12', or '-:--'."""
  if seconds is None or not math.isfinite(seconds):
    return '-:--'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
  )
