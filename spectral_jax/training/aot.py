"""The train step compiled ahead of time, for machines that are not here."""

import dataclasses
import math
import re
import sys
import time
from typing import Any

import jax
import numpy as np

from spectral_jax.errors import UserError
from spectral_jax.training import console, report, sharding
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.program import collectives, product_flops
from spectral_jax.training.settings import Settings
from spectral_jax.training.step import Batch, TrainState
from spectral_jax.training.topology import Topology


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a train step costs each device.

  Attributes:
    parameters: bytes of parameters.
    optimizer: bytes of optimizer state.
    flops: multiplications and additions of matrix products.
    peak: bytes of memory at the most; None if the compiler gave up.
    sent: bytes of arrays by kind of collective operation, each array counted
      where it is whole.
    refusal: what the compiler said when it gave up.
  """

  parameters: int
  optimizer: int
  flops: int
  peak: int | None = None
  sent: dict[str, int] = dataclasses.field(default_factory=dict)
  refusal: str = ''


def step_arguments(experiment: Experiment) -> tuple[TrainState, Batch]:
  """A state and a batch without their numbers, to compile a train step for."""
  mesh, settings = experiment.mesh, experiment.settings
  state = sharding.abstract(jax.eval_shape(experiment.init_state), mesh)
  tokens: Any = jax.ShapeDtypeStruct(
    (settings.train.batch_size, settings.model.context),
    np.int32,
    sharding=sharding.by_batch(mesh),
  )
  return state, {'inputs': tokens, 'targets': tokens}


def cost_of_step(experiment: Experiment) -> Cost:
  """Compiles the trainer's own step for the devices of an experiment's mesh."""
  state, batch = step_arguments(experiment)
  step: Any = experiment.train_step()
  traced = step.trace(state, batch)
  cost = Cost(
    parameters=_held(state.params),
    optimizer=_held(state.opt_state),
    flops=product_flops(traced.jaxpr.jaxpr, experiment.mesh.size),
  )
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    told = re.sub(r'\s+', ' ', str(error).removeprefix('RESOURCE_EXHAUSTED: '))
    return dataclasses.replace(cost, refusal=told[:200])
  sent: dict[str, int] = {}
  for operation in collectives(compiled.as_text()):
    size = operation.bytes * operation.times
    sent[operation.kind] = sent.get(operation.kind, 0) + size
  peak = compiled.memory_analysis().peak_memory_in_bytes
  return dataclasses.replace(cost, peak=peak, sent=sent)


def compile_ahead(settings: Settings, topology: str, slices: int) -> None:
  """Compiles a recipe's train step for TPUs and prints what it costs each.

  Args:
    settings: the recipe.
    topology: the name of a slice, as v5e:16x16.
    slices: how many of them.

  Raises:
    UserError: for an unknown topology, a mesh that leaves out some of its
      devices, or data from which no tokenizer can be made.
    SystemExit: with status 1, if the step does not fit into their memory.
  """
  # Nothing is computed, and a TPU of this machine, if any, is left alone.
  jax.config.update('jax_platforms', 'cpu')
  target = Topology.of(topology, slices)
  experiment = Experiment.to_compile(settings, target.devices)
  mesh, memory = experiment.mesh, target.generation.memory
  if mesh.size < len(target.devices):
    raise UserError(
      f'config.mesh: takes {mesh.size} of the {len(target.devices)} devices of '
      f'{topology}; choose data, fsdp and tensor, and config.train.batch_size, '
      'so that all have work.'
    )
  facts = report.describe_model(experiment)
  chips = len(target.devices) // target.generation.devices
  facts['devices'] = f'{len(target.devices)} ({chips} chips)'
  facts['memory'] = f'{_bytes(memory)} each'
  console.print_facts(f'train step on {slices} × {topology}', facts)
  started = time.perf_counter()
  cost = cost_of_step(experiment)
  costs = {
    'parameters': _bytes(cost.parameters),
    'optimizer state': _bytes(cost.optimizer),
    'matrix products': f'{cost.flops / 1e12:.3f} TFLOP',
  }
  costs |= {kind: _bytes(size) for kind, size in sorted(cost.sent.items())}
  fits = cost.peak is not None and cost.peak <= memory
  if cost.peak is None:
    costs['peak memory'] = f'too much: {cost.refusal}'
  else:
    costs['peak memory'] = f'{_bytes(cost.peak)} ({cost.peak / memory:.0%})'
  costs['compiled in'] = f'{time.perf_counter() - started:.0f} s'
  costs['fits'] = 'yes' if fits else 'no'
  console.print_facts('of each device, a step', costs)
  if not fits:
    print(
      f'error: the step does not fit into {_bytes(memory)} a device; split it '
      'further (config.mesh.fsdp, mesh.tensor, train.accumulate) or keep less '
      '(config.model.remat=true, model.dtype=bfloat16).',
      file=sys.stderr,
    )
    sys.exit(1)


def _bytes(size: float) -> str:
  """A size in words, as 1.5 GiB."""
  for unit in ('B', 'KiB', 'MiB'):
    if size < 1024:
      return f'{size:.4g} {unit}'
    size /= 1024
  return f'{size:,.2f} GiB'


def _held(tree: Any) -> int:
  """Bytes of abstract arrays on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
