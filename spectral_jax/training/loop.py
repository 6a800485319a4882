"""The three things that the command line does: train, evaluate, sample."""

import time
from pathlib import Path

import jax

from spectral_jax.errors import UserError
from spectral_jax.training import console, lock, processes, report, workdir
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.failures import Failures
from spectral_jax.training.interruption import Interruption
from spectral_jax.training.metrics import MetricsLog
from spectral_jax.training.optimizer import learning_rate_schedule
from spectral_jax.training.sampling import print_samples
from spectral_jax.training.sampling_flags import Sampling
from spectral_jax.training.settings import Settings
from spectral_jax.training.step import TrainState, TrainStep
from spectral_jax.training.watch import RolledBackError, Watch

# Steps that devices may have before them, the one they are at among them.
_AHEAD = 2


def _train_seconds(rows: list[dict[str, float]]) -> float:
  """What the log says of the time spent so far, by all processes of a run."""
  return rows[-1].get('train_seconds', 0.0) if rows else 0.0


def _train_steps(
  experiment: Experiment,
  train_step: TrainStep,
  state: TrainState,
  checkpoints: Checkpoints,
  failures: Failures,
  log: MetricsLog,
  interruption: Interruption,
) -> TrainState:
  """Trains from the state's step to the last, evaluating and saving.

  An interruption ends it sooner, with the step that it reached saved.
  """
  settings = experiment.settings.train
  schedule = learning_rate_schedule(
    experiment.settings.optimizer, settings.steps
  )
  done = logged = int(state.step)
  batches = failures.batches(done)
  saved = True
  pending = checkpoints.pending(done) if done else []
  before = _train_seconds(log.rows)
  began = started = time.perf_counter()
  progress = console.Progress(
    start_step=done, steps=settings.steps, log_every=settings.log_every
  )
  watch = Watch(experiment, failures, log.rows, checkpoints, progress.say)
  with interruption.held(), progress:
    for step in range(done + 1, settings.steps + 1):
      state, metrics = train_step(state, next(batches), watch.loss_limit)
      pending.append(watch.note(metrics))
      # With more steps before it a device could not stop soon.
      jax.block_until_ready(pending[:-_AHEAD])
      evaluates = step % settings.evaluate_every == 0 or step == settings.steps
      if step % settings.log_every == 0 or evaluates:
        row = watch.means(pending, step)
        tokens = (step - logged) * settings.batch_size
        tokens *= experiment.settings.model.context
        row['tokens_per_second'] = tokens / (time.perf_counter() - started)
        row['learning_rate_fraction'] = float(schedule(step - 1))
        progress.update(
          step,
          loss=row['train_loss'],
          tokens_per_second=row['tokens_per_second'],
        )
        if evaluates:
          score = experiment.score(state.params, 'validation')
          watch.check_validation(step, score.loss)
          row['validation_loss'] = score.loss
          row['validation_perplexity'] = score.perplexity
          progress.say(
            f'step {step}  validation loss {score.loss:.4f}  perplexity '
            f'{score.perplexity:.3f}'
          )
        row['train_seconds'] = before + time.perf_counter() - began
        log.write(step, row)
        if evaluates:
          saved = checkpoints.save(state, row['validation_loss'])
        pending, logged = [], step
        started = time.perf_counter()
      if interruption.reached(step):
        if pending:
          watch.means(pending, step)
        # Unless that is done.
        saved = checkpoints.save(state, None, pending)
        break
  if not saved:
    raise UserError(
      f'step {int(state.step)}: trained, but not saved; the last good '
      f'checkpoint: {checkpoints.named_latest}; make room, or bring the disk '
      'back, and give the same command again.'
    )
  return state


def _restore(
  experiment: Experiment, checkpoints: Checkpoints, step: int
) -> TrainState:
  like = jax.eval_shape(experiment.init_state)
  return checkpoints.restore(step, like, experiment.mesh)


def train(
  settings: Settings,
  directory: Path,
  interruption: Interruption | None = None,
) -> None:
  """Trains a recipe to its last step, from the newest checkpoint there is.

  An interruption ends it sooner; the same call goes on where it stopped.

  It leaves in the directory: checkpoints, metrics.jsonl, TensorBoard events,
  summary.json, config.json, sample.txt, loss.png and spectra.png.

  Raises:
    UserError: for data, a directory or devices that will not do, a directory
      in which another run trains, a loss or gradient that is not finite, or a
      checkpoint that cannot be read.
  """
  experiment = Experiment.to_train(settings)
  with lock.taken(directory):
    experiment.claim(directory)
    _train(experiment, directory, interruption or Interruption())


def _train(
  experiment: Experiment, directory: Path, interruption: Interruption
) -> None:
  """What `train` does in a workdir that is this recipe's."""
  with Checkpoints(directory) as checkpoints:
    latest = checkpoints.recover()
    facts = report.describe(experiment)
    facts['output'] = str(directory.absolute())
    if latest is not None:
      facts['goes on from'] = f'step {latest}'
    console.print_facts('run', facts)
    train_step = experiment.train_step()
    failures = Failures(experiment, directory)
    while True:
      if latest is None:
        state = experiment.init_state()
      else:
        state = _restore(experiment, checkpoints, latest)
      failures.begin(latest or 0)
      with MetricsLog(
        directory, start_step=latest or 0, writes=processes.is_first()
      ) as log:
        try:
          state = _train_steps(
            experiment,
            train_step,
            state,
            checkpoints,
            failures,
            log,
            interruption,
          )
          rows = log.rows
          break
        except RolledBackError as error:
          latest = error.to or None
    best = checkpoints.best
  if interruption.by:
    return
  score = experiment.score(state.params, 'validation')
  figures = {
    'steps': int(state.step),
    'best_step': best,
    'tokens_per_second': report.median_speed(rows),
    'train_seconds': _train_seconds(rows),
  }
  try:
    report.draw(experiment, state.params, rows, directory)
    report.finish(experiment, state.params, score, directory, figures)
  except OSError as error:
    raise UserError(
      f'the report in {directory} cannot be written ({error.strerror}); the '
      'training is saved: make room, and give the same command again.'
    ) from None


def restore(
  settings: Settings, directory: Path, which: str
) -> tuple[Experiment, TrainState]:
  """A run and the state of a checkpoint: `latest`, `best`, or a step number.

  Raises:
    UserError: if there is no such checkpoint, or it cannot be read.
  """
  experiment = Experiment.trained(settings, directory)
  with Checkpoints(directory) as checkpoints:
    named = {'latest': checkpoints.latest, 'best': checkpoints.best}
    step = named.get(which, int(which) if which.isdecimal() else None)
    if step is None or step not in checkpoints.steps:
      there = ', '.join(map(str, checkpoints.steps)) or 'none'
      raise UserError(
        f'--checkpoint: expected latest, best or a step ({there}), got '
        f'{which!r}.'
      )
    return experiment, _restore(experiment, checkpoints, step)


def evaluate(settings: Settings, directory: Path, checkpoint: str) -> None:
  """Prints the score of a checkpoint on the validation and the test split.

  Raises:
    UserError: if there is no such checkpoint, or the data is another.
  """
  experiment, state = restore(settings, directory, checkpoint)
  workdir.check_data(directory, experiment.digest())
  console.print_facts('run', report.describe(experiment))
  for split in ('validation', 'test'):
    score = experiment.score(state.params, split)
    facts = {'step': str(int(state.step))} | report.describe_score(score)
    console.print_facts(split, facts)


def sample(
  settings: Settings, directory: Path, checkpoint: str, sampling: Sampling
) -> None:
  """Prints text that a checkpoint generates after a prompt, as it comes.

  Raises:
    UserError: if there is no such checkpoint, or a character of the prompt is
      not in the vocabulary.
  """
  experiment, state = restore(settings, directory, checkpoint)
  print_samples(experiment, state.params, sampling, int(state.step))
