"""What the README shows is what happens."""

import contextlib
import io
import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / 'README.md').read_text()


def test_the_examples_print_what_they_say() -> None:
  programs = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  assert len(programs) == 6
  names = {'__name__': 'readme'}
  for program in programs:
    assert len(program.splitlines()) <= 25
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(program, names)
    # Beside the print, a number or a tuple; below it, lines of their own.
    expected = re.findall(
      r'(?:print\(.*\)  |^)# ([({].*|\d+|[\w ]+  .*)', program, re.M
    )
    assert printed.getvalue().splitlines() == expected


def test_the_test_command_is_ci_s() -> None:
  commands = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
  assert 'pip install -r requirements.txt && python train.py' in commands[0]
  assert commands[1].endswith('-r requirements.txt && python -m pytest\n')
  script = (REPOSITORY / '.ci' / 'run').read_text()
  assert 'install --quiet --disable-pip-version-check -r req' in script
  assert 'python -m pytest\n' in script.splitlines(keepends=True)


def test_its_files_are_there() -> None:
  for path in re.findall(r'\]\((docs/[^)]*)\)', README):
    assert (REPOSITORY / path).is_file()
  for folder in re.findall(r'\| `([\w/.]+/)`', README):
    assert (REPOSITORY / folder).is_dir()
