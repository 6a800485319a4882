"""What is written comes back, once, whatever killed the run before."""

import json
import math
import pathlib
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from spectral_jax.errors import UserError
from spectral_jax.training.metrics import MetricsLog, read_metrics


def _events(workdir: pathlib.Path) -> list[Event]:
  """Reads TFRecord files: length, its checksum, the event, its checksum."""
  events = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack('<Q', data[:8])
      events.append(Event.FromString(data[12 : 12 + length]))
      data = data[12 + length + 4 :]
  return events


def test_rows_are_on_disk_before_the_log_is_closed(
  tmp_path: pathlib.Path,
) -> None:
  with MetricsLog(tmp_path / 'new' / 'run', start_step=0) as log:
    log.write(10, {'train_loss': 2.5})
    log.write(20, {'train_loss': np.float32(1.25), 'learning_rate': 1e-3})
    rows = [
      {'step': 10, 'train_loss': 2.5},
      {'step': 20, 'train_loss': 1.25, 'learning_rate': 1e-3},
    ]
    assert read_metrics(tmp_path / 'new' / 'run') == rows
    assert log.rows == rows


def test_a_resumed_run_has_no_row_twice(tmp_path: pathlib.Path) -> None:
  with MetricsLog(tmp_path, start_step=0) as log:
    for step in (10, 20, 30, 40):
      log.write(step, {'train_loss': step / 10})
  with MetricsLog(tmp_path, start_step=20) as log:
    assert [row['step'] for row in log.rows] == [10, 20]
    assert read_metrics(tmp_path) == log.rows  # before anything is written
    log.write(30, {'train_loss': 7.0})
  expected = [(10, 1.0), (20, 2.0), (30, 7.0)]
  rows = read_metrics(tmp_path)
  assert [(row['step'], row['train_loss']) for row in rows] == expected
  assert {path.name for path in tmp_path.iterdir()} == {
    'metrics.jsonl',
    'tensorboard',
  }


def test_a_torn_last_line_is_dropped(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 10, "train_loss": 2.5}\n{"step": 20, "trai')
  assert read_metrics(tmp_path) == [{'step': 10, 'train_loss': 2.5}]
  with MetricsLog(tmp_path, start_step=20) as log:
    log.write(30, {'train_loss': 1.5})
  assert [row['step'] for row in read_metrics(tmp_path)] == [10, 30]


def test_a_kill_while_opening_keeps_the_old_file(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 10}\n{"step": 20}\n')

  def killed(*_: object) -> None:
    raise KeyboardInterrupt

  monkeypatch.setattr(pathlib.Path, 'replace', killed)
  with pytest.raises(KeyboardInterrupt):
    MetricsLog(tmp_path, start_step=10)
  assert path.read_text() == '{"step": 10}\n{"step": 20}\n'


def test_values_that_are_not_finite_stay_valid_json(
  tmp_path: pathlib.Path,
) -> None:
  values = {'a': math.nan, 'b': math.inf, 'c': -math.inf}
  with MetricsLog(tmp_path, start_step=0) as log:
    log.write(1, values)

  def no_constants(name: str) -> None:
    raise AssertionError(f'{name} is no JSON')

  line = (tmp_path / 'metrics.jsonl').read_text()
  json.loads(line, parse_constant=no_constants)
  (row,) = read_metrics(tmp_path)
  assert math.isnan(row['a'])
  assert (row['b'], row['c']) == (math.inf, -math.inf)
  with MetricsLog(tmp_path, start_step=1):  # the rewrite keeps them
    assert (tmp_path / 'metrics.jsonl').read_text() == line


@pytest.mark.parametrize('line', ['not json', '[1, 2]', '{"a": "b"}'])
def test_a_broken_line_is_named(tmp_path: pathlib.Path, line: str) -> None:
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 10}\n' + line + '\n{"step": 20}\n')
  with pytest.raises(UserError, match=r'metrics\.jsonl, line 2: expected'):
    read_metrics(tmp_path)


def test_no_run_has_no_rows(tmp_path: pathlib.Path) -> None:
  assert read_metrics(tmp_path / 'nowhere') == []


def test_tensorboard_holds_the_same_scalars(tmp_path: pathlib.Path) -> None:
  with MetricsLog(tmp_path, start_step=0) as log:
    log.write(10, {'train_loss': 2.5, 'tokens_per_second': 1024.0})
    log.write(20, {'validation_loss': 1.25})
  scalars = [
    (event.step, value.tag, value.simple_value)
    for event in _events(tmp_path)
    for value in event.summary.value
  ]
  assert scalars == [
    (10, 'train_loss', 2.5),
    (10, 'tokens_per_second', 1024.0),
    (20, 'validation_loss', 1.25),
  ]


def test_tensorboard_hides_what_a_resumed_run_repeats(
  tmp_path: pathlib.Path,
) -> None:
  for start_step in (0, 20):
    with MetricsLog(tmp_path, start_step=start_step) as log:
      log.write(start_step + 10, {'train_loss': 1.0})
  # TensorBoard hides events from the step of a start on.
  starts = [
    event.step
    for event in _events(tmp_path)
    if event.session_log.status == SessionLog.START
  ]
  assert starts == [1, 21]
