"""A cloud in a folder, with a stand-in gcloud, for the launcher to act on."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
STAND_IN = Path(__file__).parent / 'stand_in.py'
# What a worker has, or installs.
WORKER_PROGRAMS = {
  'sudo': 'while [[ $1 == *=* ]]; do shift; done; "$@"',
  'apt-get': '[[ ! -f $WORLD/no_packages ]]',
  'curl': 'true',
  'tee': 'cat >/dev/null',
  'lsb_release': 'echo jammy',
  'mountpoint': '[[ -L ${!#} ]]',
  'gcsfuse': 'rmdir "${!#}"; ln -s "$WORLD/bucket" "${!#}"',
  'uv': 'if [[ $1 == venv ]]; then mkdir -p ~/venv/bin; '
  'ln -s "$WORLD/bin/gcloud" ~/venv/bin/python; '
  'elif [[ -f $WORLD/no_jax ]]; then '
  'echo "error: no version of jax" >&2; exit 1; fi',
  'tmux': 'if [[ $1 == has-session ]]; then [[ -f ~/session ]]; exit; fi\n'
  'shift 4; setsid bash -c \'"$@"; rm -f ~/session\' - "$@" '
  '>/dev/null 2>&1 & echo $! >~/session',
}
STATES = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']
WELL = {'states': ['ACTIVE'], 'train': 'well'}
WHERE = ('--name=my-tpu', '--zone=us-west4-a', '--poll=0.03')
NOTHING_LEFT = 'No TPU is left.'
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptible' has been exceeded."


def program(path: Path, script: str, shell: str = '/bin/bash') -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(f'#!{shell}\n{script}\n')
  path.chmod(0o755)


class World:
  """A cloud in a folder."""

  def __init__(self, root: Path, checkout: Path) -> None:
    self.root = root
    self.checkout = checkout
    for folder in ('bucket', 'home'):
      (root / folder).mkdir()
    program(
      root / 'bin' / 'gcloud', STAND_IN.read_text(), f'{sys.executable} -SE'
    )
    for name, script in WORKER_PROGRAMS.items():
      program(root / 'worker_bin' / name, script)
    self.happens(WELL)

  def happens(self, *tpus: dict[str, Any], **errors: Any) -> None:
    self.scenario = {'tpus': list(tpus), **errors}
    (self.root / 'scenario').write_text(repr(self.scenario))

  def start(self, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
      [sys.executable, str(self.checkout / 'launch' / 'tpu_vm.py'), *arguments],
      cwd=self.root / 'home',
      env=os.environ
      | {
        'PATH': f'{self.root}/bin:{os.environ["PATH"]}',
        'WORLD': str(self.root),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def launch(self, verb: str, *arguments: str) -> tuple[int, str, str]:
    flags = WHERE
    if verb in ('create', 'run'):
      flags += ('--type=v5litepod-16',)
    if verb in ('install', 'fetch', 'run'):
      flags += ('--bucket=my-bucket',)
    process = self.start(verb, *flags, *arguments)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error

  def refused(self, verb: str, *arguments: str) -> str:
    """The one line of a launch that fails."""
    status, _, error = self.launch(verb, *arguments)
    assert status == 1, error
    (line,) = error.splitlines()
    assert line.startswith('error: ')
    return line

  def calls(self) -> list[list[str]]:
    path = self.root / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines]

  def count(self, *words: str) -> int:
    return sum(set(words) <= set(call) for call in self.calls())

  def is_left(self) -> bool:
    scenario = ast.literal_eval((self.root / 'scenario').read_text())
    return bool(scenario.get('created', False))


def assert_trained(world: World, output: str) -> None:
  """The run has ended, was fetched, and nothing of it is left."""
  fetched = world.root / 'home' / 'runs' / 'my-tpu'
  assert (fetched / 'checkpoint-0').read_text() == '5'
  assert (fetched / 'checkpoint-1').read_text() == '5'
  assert output.splitlines()[-1].endswith(NOTHING_LEFT)
  assert not world.is_left()


def read_until(process: subprocess.Popen[str], text: str) -> str:
  assert process.stdout is not None
  seen = ''
  while text not in seen:
    line = process.stdout.readline()
    assert line, seen
    seen += line
  return seen
