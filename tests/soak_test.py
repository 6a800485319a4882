"""Thousands of steps take no more memory than hundreds."""

import time
from pathlib import Path

import pytest

from tests.trainer import end, start

STEPS = 3000
# MiB that a run may add between a third of its steps and its end: 4 KiB a step.
MAY_GROW = 8


def _resident(process: int) -> float:
  """MiB of memory that a process holds."""
  status = Path(f'/proc/{process}/status').read_text()
  (line,) = (x for x in status.splitlines() if x.startswith('VmRSS'))
  return int(line.split()[1]) / 1024


@pytest.mark.long
def test_a_long_run_holds_its_memory(text: Path, tmp_path: Path) -> None:
  process = start(
    'train.py',
    f'--workdir={tmp_path / "run"}',
    '--config.data.corpus=text',
    f'--config.data.path={text}',
    '--config.model.width=16',
    '--config.model.layers=1',
    '--config.model.heads=1',
    '--config.model.context=16',
    '--config.train.batch_size=4',
    f'--config.train.steps={STEPS}',
    f'--config.train.evaluate_every={STEPS // 10}',
    '--config.train.log_every=10',
    tmp=text.parent,
  )
  log = tmp_path / 'run' / 'metrics.jsonl'
  samples: list[tuple[int, float]] = []  # steps done, and MiB
  while process.poll() is None:
    done = 10 * log.read_bytes().count(b'train_loss') if log.exists() else 0
    try:
      samples.append((done, _resident(process.pid)))
    except (OSError, ValueError):  # it has just ended
      break
    time.sleep(0.05)
  result = end(process)
  assert result.returncode == 0, result.stderr
  # The pictures at the end are no part of the steps.
  steady = [held for done, held in samples if STEPS / 3 < done < STEPS]
  assert len(steady) > 20, samples
  early, late = steady[: len(steady) // 4], steady[-len(steady) // 4 :]
  assert max(late) < max(early) + MAY_GROW, (max(early), max(late))
