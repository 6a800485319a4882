"""What a run tells before and after: its facts, scores, sample and pictures."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectral_jax.training import console, processes, workdir
from spectral_jax.training.experiment import Experiment, Score
from spectral_jax.training.machine import machine_facts
from spectral_jax.training.optimizer import where_dropped
from spectral_jax.training.sampling import sample_text
from spectral_jax.training.sampling_flags import Sampling
from spectral_jax.training.spectra import magnitudes, stable_ranks

_WRITTEN = (
  'checkpoints',
  'metrics.jsonl',
  'tensorboard',
  'summary.json',
  'config.json',
  'data.json',
  'tokenizer.json',
  'sample.txt',
  'loss.png',
  'spectra.png',
)


def describe(experiment: Experiment) -> dict[str, str]:
  """The facts that are known before the first step, by name."""
  mesh, count = experiment.mesh, jax.process_count()
  device = mesh.devices.flat[0]
  return {
    'device': f'{device.device_kind} ({device.platform}), {mesh.size} of '
    f'{jax.device_count()}, in {count} process{"es" if count > 1 else ""}',
    **describe_model(experiment),
    'data': f'{experiment.corpus.describe()}; '
    f'vocabulary {experiment.tokenizer.vocabulary_size}',
  }


def describe_model(experiment: Experiment) -> dict[str, str]:
  """How the model is stored, and split over the mesh."""
  stored, as_dense = experiment.parameter_counts()
  linear = experiment.settings.model.linear
  how = {
    'dense': 'dense',
    'spectral': f'spectral, {linear.selection}, keep {linear.keep:g}',
    'low_rank': f'low rank {linear.rank}',
  }
  axes = experiment.mesh.shape.items()
  drop_to = experiment.settings.optimizer.drop_to
  dropped = f'; {drop_to:g} of each is left at the end' if drop_to < 1 else ''
  return {
    'mesh': ', '.join(f'{name} {size}' for name, size in axes),
    'linear layers': how[linear.kind] + dropped,
    'parameters': f'{stored:,} stored; a dense model stores {as_dense:,} '
    f'({stored / as_dense:.1%})',
  }


def describe_score(score: Score) -> dict[str, str]:
  """A score's figures, by name."""
  return {
    'loss': f'{score.loss:.4f} nats per token',
    'perplexity': f'{score.perplexity:.3f}',
    'bits per character': f'{score.bits_per_character:.4f}',
  }


def median_speed(rows: list[dict[str, float]]) -> float:
  """Median tokens a second over the rows of a log; compiling is an outlier."""
  speeds = [r['tokens_per_second'] for r in rows if 'tokens_per_second' in r]
  return float(np.median(speeds)) if speeds else math.nan


def draw(
  experiment: Experiment,
  params: Any,
  rows: list[dict[str, float]],
  directory: Path,
) -> None:
  """Draws loss.png and spectra.png; all processes call it, the first draws."""
  # Imported here: Matplotlib is a fifth of the time that a command starts in.
  from spectral_jax.training.loss_picture import draw_loss
  from spectral_jax.training.spectra_picture import draw_spectra

  settings = experiment.settings
  initial = processes.on_host(experiment.init_state().params)
  params = processes.on_host(params)
  if not processes.is_first():
    return
  draw_loss(rows, directory / 'loss.png', title=f'{settings.name}: loss')
  draw_spectra(
    magnitudes(params, settings.model),
    directory / 'spectra.png',
    title=f'{settings.name}: |coefficients| by frequency',
    initial=magnitudes(initial, settings.model),
  )


def finish(
  experiment: Experiment,
  params: Any,
  score: Score,
  directory: Path,
  facts: dict[str, Any],
) -> None:
  """Writes summary.json and sample.txt, and prints the closing tables.

  All processes call it, the first writes.

  Args:
    experiment: the run's.
    params: its parameters after the last step.
    score: of the last step on the validation split.
    directory: the workdir.
    facts: `steps`, `best_step`, `tokens_per_second` (median) and
      `train_seconds` of the run: with compiling, evaluating and saving, and
      without the time between a stop and going on.
  """
  stored, as_dense = experiment.parameter_counts()
  text = sample_text(experiment, params, Sampling())
  params = processes.on_host(params)
  if not processes.is_first():
    return
  dropped = where_dropped(params) if experiment.settings.drops else {}
  stored -= sum(int(zero.sum()) for zero in dropped.values())
  position_bytes = sum(-(-zero.size // 8) for zero in dropped.values())
  ranks = stable_ranks(params, experiment.settings.model)
  stable_rank = float(np.mean(list(ranks.values())))
  summary = {
    'name': experiment.settings.name,
    'validation_loss': score.loss,
    'validation_perplexity': score.perplexity,
    'bits_per_character': score.bits_per_character,
    'parameters': stored,
    'parameters_dense': as_dense,
    'parameters_ratio': stored / as_dense,
    'position_bytes': position_bytes,
    'stable_rank': stable_rank,
    'seed': experiment.settings.seed,
    **facts,
    **machine_facts(),
  }
  workdir.write_text(
    directory / 'summary.json', json.dumps(summary, indent=2) + '\n'
  )
  workdir.write_text(directory / 'sample.txt', text + '\n')
  console.print_sample('sample', text)
  console.print_facts(
    f'step {facts["steps"]}, validation',
    {
      **describe_score(score),
      'best step': f'{facts["best_step"]}',
      'stored parameters': f'{stored:,} ({stored / as_dense:.1%} of dense)'
      + (f', {position_bytes:,} bytes say which' if dropped else ''),
      'stable rank': f"{stable_rank:.1f}, mean of the blocks' kernels",
      'tokens/s': f'{facts["tokens_per_second"]:,.0f}',
      'wall time': console.clock(facts['train_seconds']),
    },
  )
  console.print_facts(
    'written', {name: str(directory.absolute() / name) for name in _WRITTEN}
  )
