"""What a train step takes to trace, lower and compile: dense against spectral.

  python -m benchmarks.compile_time [--topology=v5e:2x2] [--optimizer=muon]

The trainer's own step of the paper's model, compiled anew in each round, all
contenders in turn; medians of seconds, and what the program is like: the bytes
of the executable with its constants, and those of memory that it takes. With
--topology the step is compiled for TPUs that are not here, on a mesh of all of
them (requirements-tpu.txt). Flags of train.py come after `--`, as in
`-- --config.model.scan=true`.
"""

import statistics
from collections.abc import Sequence

from absl import app, flags

from benchmarks import contenders, timing
from benchmarks.arguments import parse_flags
from benchmarks.compiled import Compiled, compile_anew, devices_of
from spectral_jax.training.aot import step_arguments
from spectral_jax.training.experiment import Experiment

_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Times of each.', lower_bound=1)
_BATCH = flags.DEFINE_integer(
  'batch_size', 16, 'Sequences a step.', lower_bound=1
)
_OPTIMIZER = flags.DEFINE_enum(
  'optimizer', 'adamw', ['adamw', 'muon'], 'Of the step.'
)
_SELECTIONS = flags.DEFINE_list(
  'selections', 'strided/2', 'KIND/B keeps nm/B, all separated by commas.'
)
_METHODS = flags.DEFINE_list(
  'methods', 'idctn,gemm,fft,factored', 'Of spectral layers; auto among them.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'Of TPUs to compile for, as v5e:2x2.'
)


def _compile(contender: Experiment) -> Compiled:
  return Compiled.of(contender.train_step(), *step_arguments(contender))


def _row(name: str, programs: Sequence[Compiled]) -> str:
  seconds = ' | '.join(
    f'{statistics.median(getattr(p, stage) for p in programs):.2f}'
    for stage in ('trace', 'lower', 'compile')
  )
  last = programs[-1]
  return (
    f'| {name} | {seconds} | {last.size / 2**20:.2f} | '
    f'{last.memory / 2**20:.1f} |'
  )


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  linears = contenders.dense_and_spectral(
    contenders.parse_selections(_SELECTIONS.value),
    contenders.parse_methods(_METHODS.value),
  )
  settings = contenders.read_settings(_BATCH.value, argv[1:])
  devices = devices_of(_TOPOLOGY.value) if _TOPOLOGY.value else None
  compile_anew()
  experiments = {
    name: contenders.experiment(settings, linear, _OPTIMIZER.value, devices)
    for name, linear in linears.items()
  }
  timing.print_machine()
  # What is traced first finds none of JAX's own functions traced: not counted.
  first = next(iter(experiments.values()))
  first.train_step().trace(*step_arguments(first))  # type: ignore[attr-defined]
  programs: dict[str, list[Compiled]] = {name: [] for name in experiments}
  for _ in range(_ROUNDS.value):
    for name, each in experiments.items():
      programs[name].append(_compile(each))
  where = f'for {_TOPOLOGY.value}' if _TOPOLOGY.value else 'here'
  print(
    f'\n| train step, {_OPTIMIZER.value}, {where} | trace s | lower s | '
    'compile s | MiB of program | MiB of memory |'
  )
  print('|---|---|---|---|---|---|')
  for name, compiled in programs.items():
    print(_row(name, compiled))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
