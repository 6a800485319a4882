"""What is printed, on a terminal and into a file."""

import contextlib
import io
import re
import sys

import pytest

from spectral_jax.training.console import Progress, print_facts, print_sample

_LONG_PATH = '/data/' + 'runs/' * 40 + 'a run with spaces/' + 'x' * 200


class _Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
  for name in ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '80')


class _Clock:
  now = 0.0

  def __call__(self) -> float:
    return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
  clock = _Clock()
  monkeypatch.setattr('rich.console.monotonic', clock)
  return clock


def test_facts_stand_in_two_columns_with_paths_whole(
  capsys: pytest.CaptureFixture[str],
) -> None:
  print_facts('Run [1]', {'[b]steps': '[i]1400', 'workdir': _LONG_PATH})
  heading, *lines = capsys.readouterr().out.splitlines()
  assert 'Run [1]' in heading
  assert lines == ['[b]steps  [i]1400', 'workdir   ' + _LONG_PATH]


def test_facts_keep_paths_whole_on_a_terminal() -> None:
  with contextlib.redirect_stdout(_Terminal()) as terminal:
    print_facts('Run', {'workdir': _LONG_PATH})
  assert _LONG_PATH in terminal.getvalue()


def test_no_facts_print_the_title(capsys: pytest.CaptureFixture[str]) -> None:
  print_facts('Run', {})
  assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_sample_is_printed_letter_for_letter(
  capsys: pytest.CaptureFixture[str],
) -> None:
  print_sample('step [100]', '[ROMEO]\n  [/b] :smile: 12\n\n\x1b[31mred\x9b\r')
  lines = capsys.readouterr().out.splitlines()
  assert ' step [100] ' in lines[0]
  assert [line[2:-2].rstrip() for line in lines[1:-1]] == [
    '[ROMEO]',
    '  [/b] :smile: 12',
    '',
    '␛[31mred�␍',
  ]


def test_off_a_terminal_a_line_every_log_every_steps(
  capsys: pytest.CaptureFixture[str],
) -> None:
  with Progress(start_step=0, steps=25, log_every=10) as progress:
    for step in range(1, 26):
      progress.update(step, loss=2.3451, tokens_per_second=10240.4)
      if step == 15:
        progress.say('validation loss [2.1] ' + _LONG_PATH)
  out = capsys.readouterr().out
  lines = out.splitlines()
  assert len(lines) == 4
  expected = r'step 10/25  loss 2\.345  tokens/s 10,240  left \d+:\d\d'
  assert re.fullmatch(expected, lines[0])
  assert lines[1] == 'validation loss [2.1] ' + _LONG_PATH
  assert lines[2].startswith('step 20/25  ')
  assert lines[3].startswith('step 25/25  ')
  assert lines[3].endswith('left 0:00')
  assert '\x1b' not in out


@pytest.mark.parametrize(
  ('seconds_per_step', 'left'), [(0.25, '4:00'), (4.0, '1:04:00')]
)
def test_time_left_follows_the_speed_after_the_first_update(
  seconds_per_step: float,
  left: str,
  clock: _Clock,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with Progress(start_step=1000, steps=2000, log_every=10) as progress:
    clock.now += 500.0  # the first step compiles: it tells no speed
    for step in range(1010, 1050, 10):
      progress.update(step, loss=1.0, tokens_per_second=1.0)
      clock.now += 10 * seconds_per_step
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith('left -:--')
  assert lines[3].endswith(f'left {left}')


def test_a_terminal_shows_a_bar_and_lines_above_it() -> None:
  with (
    contextlib.redirect_stdout(_Terminal()) as terminal,
    Progress(start_step=100, steps=1400, log_every=1) as progress,
  ):
    progress.update(700, loss=2.345, tokens_per_second=10240.0)
    progress.say('validation loss [2.1]')
  out = terminal.getvalue()
  assert 'validation loss [2.1]\n' in out
  bar = re.sub(r'\x1b\[[0-9;?]*\w', '', out.split('validation')[1])
  assert ' 700/1400 ' in bar
  assert 'loss 2.345  tokens/s 10,240 left' in bar
  assert 'elapsed 0:00:0' in bar


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_the_terminal_is_sane_after_an_exception(
  error: type[BaseException],
) -> None:
  hide, show = '\x1b[?25l', '\x1b[?25h'
  with contextlib.redirect_stdout(_Terminal()) as terminal:

    def interrupted() -> None:
      with Progress(start_step=0, steps=10, log_every=1):
        assert hide in terminal.getvalue()
        assert show not in terminal.getvalue()
        raise error

    with pytest.raises(error):
      interrupted()
    assert sys.stdout is terminal
  assert terminal.getvalue().endswith('\n' + show)
