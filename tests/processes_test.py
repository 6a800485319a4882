"""Two processes with four devices each are one with eight."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spectral_jax.errors import UserError
from spectral_jax.training import processes
from spectral_jax.training.joining import Group
from tests.trainer import (
  assert_refused,
  end,
  metrics_rows,
  saved,
  small,
  start,
  train,
)

STEPS = (
  '--config.train.steps=30',
  '--config.train.evaluate_every=10',
  '--config.optimizer.name=adamw',
)
Process = subprocess.Popen[str]


def _port() -> int:
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def _by_hand(index: int, port: int) -> list[str]:
  return [
    f'--coordinator=127.0.0.1:{port}',
    '--process_count=2',
    f'--process_id={index}',
  ]


def _open_mpi(index: int, port: int) -> dict[str, str]:
  return {
    'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://127.0.0.1:34911',
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': f'{index}',
    'OMPI_COMM_WORLD_LOCAL_RANK': f'{index}',
    'JAX_COORDINATOR_PORT': f'{port}',
  }


def _slurm(index: int, port: int) -> dict[str, str]:
  return {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': f'{index}',
    'SLURM_LOCALID': f'{index}',
    'JAX_COORDINATOR_PORT': f'{port}',
  }


def _wait_until(started: list[Process], reached: Callable[[], bool]) -> None:
  while not reached():
    for process in started:
      assert process.poll() is None, process.communicate()
    time.sleep(0.01)


def _wait_for(started: list[Process], workdir: Path, step: int) -> None:
  """Waits until there is a checkpoint."""
  _wait_until(started, lambda: saved(workdir, step))


def _stop_second(started: list[Process]) -> list[str]:
  """Sends SIGTERM to the second of two; returns what each printed."""
  first, second = started
  # JAX looks once a second whether a signal has come. Meanwhile the first waits
  # and so do the steps, lest the run be over by then.
  first.send_signal(signal.SIGSTOP)
  second.send_signal(signal.SIGTERM)
  time.sleep(2)
  first.send_signal(signal.SIGCONT)
  ended = [end(process) for process in started]
  for process in ended:
    assert process.returncode == 0, process.stderr
  return [process.stdout for process in ended]


@pytest.fixture(scope='module')
def runs(
  text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
  """A run of one process, and one that two begin and one goes on with.

  The two are stopped by a signal to one of them.

  Of the first no more is needed than its rows; the second has another mesh.
  """
  folder = tmp_path_factory.mktemp('processes')
  one, two = folder / 'one', folder / 'two'

  def begin(workdir: Path, devices: int, **surroundings: str) -> Process:
    mesh = f'--config.mesh.fsdp={1 if workdir == one else 8}'
    arguments = small(text, workdir, *STEPS, mesh)
    tmp = text.parent
    return start(
      'train.py', *arguments, tmp=tmp, devices=devices, **surroundings
    )

  alone = begin(one, 8)
  _wait_for([alone], one, 30)
  alone.kill()
  alone.communicate()
  port = _port()
  started = [begin(two, 4, **_slurm(index, port)) for index in (0, 1)]
  log = two / 'metrics.jsonl'
  # Its first row is of step 10; training goes on while that is saved.
  _wait_until(started, lambda: log.exists() and log.stat().st_size > 0)
  printed = _stop_second(started)
  assert '8 of 8, in 2 processes' in printed[0]
  assert 'data 1, fsdp 8' in printed[0]
  assert '[Gloo]' not in printed[0]
  assert 'interrupted; the same command goes on' in printed[0]
  assert printed[1] == ''
  steps = {int(path.name) for path in (two / 'checkpoints').iterdir()}
  stopped_at = max(steps)  # mostly between two evaluations
  assert stopped_at < 30
  resumed = end(begin(two, 8))
  assert resumed.returncode == 0, resumed.stderr
  assert re.search(rf'goes on from +step {stopped_at}\n', resumed.stdout)
  return one, two


def test_the_number_of_processes_changes_nothing(
  runs: tuple[Path, Path],
) -> None:
  rows = [metrics_rows(workdir) for workdir in runs]
  assert [row['step'] for row in rows[0]] == [10, 20, 30]
  for one, other in zip(*rows, strict=True):
    assert one == pytest.approx(other, rel=1e-5)


def test_process_0_alone_writes(runs: tuple[Path, Path]) -> None:
  workdir = runs[1]
  assert len(list((workdir / 'tensorboard').iterdir())) == 2  # starts
  names = {path.name for path in workdir.iterdir()}
  assert not [name for name in names if name.endswith('.tmp')]
  assert {'summary.json', 'sample.txt', 'loss.png', 'spectra.png'} < names


@pytest.mark.long
@pytest.mark.parametrize('lost', [0, 1])
def test_one_that_is_left_alone_ends_and_goes_on_by_itself(
  text: Path, tmp_path: Path, lost: int
) -> None:
  workdir, port = tmp_path / 'run', _port()
  command = (
    'train.py',
    *small(text, workdir, '--config.train.evaluate_every=10'),
    '--config.train.steps=100000',
    '--config.mesh.fsdp=2',
  )
  started = [
    start(*command, tmp=text.parent, **_slurm(index, port)) for index in (0, 1)
  ]
  _wait_for(started, workdir, 10)
  started[lost].kill()
  ended = end(started[1 - lost])
  started[lost].communicate()
  # Process 0 is where JAX's processes meet: without it JAX may abort one first.
  if lost == 1 or ended.returncode != -signal.SIGABRT:
    assert ended.returncode == 2
    (line,) = re.findall('^error: .*$', ended.stderr, re.M)
    assert f'process {1 - lost} of 2: another process is lost' in line
    assert 'the same command, with any number of processes, go' in line
    assert 'Fatal' not in ended.stderr
  steps = (int(path.name) for path in (workdir / 'checkpoints').iterdir())
  newest = max(step for step in steps if saved(workdir, step))
  alone = start(*command, tmp=text.parent, devices=2)
  _wait_for([alone], workdir, newest + 10)
  alone.terminate()
  ended = end(alone)
  assert ended.returncode == 0, ended.stderr
  assert re.search(rf'goes on from +step {newest}\n', ended.stdout)


def test_processes_share_an_epoch_and_their_errors(tmp_path: Path) -> None:
  # Token i is i, so a window says where it starts. Of 58, 52 are to train on,
  # in 44 windows of 8 with a target after the last.
  text = tmp_path / 'text.txt'
  text.write_text(''.join(chr(0x4E00 + i) for i in range(58)))
  port = _port()
  started = [
    start(
      *('-m', 'tests.one_of_two', index, text, tmp_path),
      tmp=tmp_path,
      devices=4,
      **_open_mpi(index, port),
    )
    for index in (0, 1)
  ]
  ended = [end(process) for process in started]
  # Process 0 fails alone, and process 1 does not wait for it for ever.
  assert ended[0].returncode != 0
  assert 'RuntimeError: alone' in ended[0].stderr
  assert ended[1].returncode != 0
  one, other = (
    json.loads((tmp_path / f'{index}.json').read_text()) for index in (0, 1)
  )
  for told in (one, other):
    assert told['said'] == ['', 'é']
    fits, small, divides, third = told['meshes']
    assert fits == small == 'none'
    assert re.search(r'config\.mesh: .*2 processes.*of 3 .*got 1', divides)
    assert re.search(r'mesh\.data: .*2 processes.*of 6 .*got 3', third)
  assert one['lines'] == ['none', 'process 1: it is mine']
  assert other['lines'] == ['none', 'it is mine']
  assert sorted(one['starts'] + other['starts']) == list(range(44))
  assert len(one['starts']) == len(other['starts'])


@pytest.mark.parametrize(
  ('coordinator', 'count', 'index', 'expected'),
  [
    ('localhost:12345', None, None, r'--process_count: missing'),
    (None, 2, 1, r'--coordinator: missing; give --coordinator, --process_co'),
    ('localhost:12345', 2, None, r'--process_id: missing'),
    ('localhost', 2, 0, r"--coordinator: expected HOST:PORT, got 'localhost'"),
    ('localhost:port', 2, 0, r'--coordinator: expected HOST:PORT'),
    ('localhost:65536', 2, 0, r'--coordinator: expected HOST:PORT'),
    ('[::1]:12345', 2, 2, r'--process_id: expected 0 to 1.*got 2'),
  ],
)
def test_flags_that_do_not_go_together(
  coordinator: str | None, count: int | None, index: int | None, expected: str
) -> None:
  with pytest.raises(UserError, match=expected):
    Group(None, coordinator, count, index, 1)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    group = Group(None, f'localhost:{port}', 2, 0, 1)
    with (
      pytest.raises(UserError, match=rf'cannot listen on port {port} \(Addr'),
      processes.joined(group, {}),
    ):
      pass


def test_a_bad_flag_gets_one_line(text: Path) -> None:
  assert_refused(
    train('--coordinator=localhost:12345', text=text),
    r'--process_count: missing',
  )


def test_who_cannot_be_met_is_named(text: Path) -> None:
  port = _port()
  alone = ['--process_count=2', '--join_timeout=1']
  started = {
    rf'--coordinator: nothing answers at localhost:{port} .*--join_timeout': (
      [f'--coordinator=localhost:{port}', '--process_id=1', *alone],
      {},
    ),
    r'--coordinator: not all 2 processes came to localhost:\d+ within 1 s': (
      [f'--coordinator=localhost:{_port()}', '--process_id=0', *alone],
      {},
    ),
    r'--distributed: JAX cannot tell .*--coordinator': (['--distributed'], {}),
    r'^error: Open MPI: JAX cannot tell': ([], {'OMPI_COMM_WORLD_SIZE': '2'}),
  }
  begun = {
    expected: start('train.py', *arguments, tmp=text.parent, **surroundings)
    for expected, (arguments, surroundings) in started.items()
  }
  for expected, process in begun.items():
    assert_refused(end(process), expected)


def test_processes_that_were_told_otherwise(text: Path, tmp_path: Path) -> None:
  port, workdir = _port(), tmp_path / 'run'
  started = [
    start(
      'train.py',
      *small(text, workdir, f'--config.seed={index}'),
      *_by_hand(index, port),
      tmp=text.parent,
    )
    for index in (0, 1)
  ]
  for process in started:
    assert_refused(
      end(process), r'config\.seed: .*got 0 in process 0 and 1 in process 1'
    )
  assert not workdir.exists()
