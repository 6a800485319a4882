"""The train step compiled ahead of time, for machines that are not here."""

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np

from spectral_jax.training import sharding
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.program import collectives, product_flops


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a train step costs each device.

  Attributes:
    parameters: bytes of parameters.
    optimizer: bytes of optimizer state.
    peak: bytes of memory at the most; infinity if the compiler gave up.
    flops: multiplications and additions of matrix products.
    sent: bytes of arrays by kind of collective operation, each array counted
      where it is whole.
    refusal: what the compiler said, if the step does not fit.
  """

  parameters: int
  optimizer: int
  peak: float
  flops: int
  sent: dict[str, int]
  refusal: str = ''


def cost_of_step(experiment: Experiment) -> Cost:
  """Compiles the trainer's own step for the devices of an experiment's mesh."""
  mesh, settings = experiment.mesh, experiment.settings
  state = sharding.abstract(jax.eval_shape(experiment.init_state), mesh)
  tokens = jax.ShapeDtypeStruct(
    (settings.train.batch_size, settings.model.context),
    np.int32,
    sharding=sharding.by_batch(mesh),
  )
  step: Any = experiment.train_step()
  traced = step.trace(state, {'inputs': tokens, 'targets': tokens})
  cost = Cost(
    parameters=_held(state.params),
    optimizer=_held(state.opt_state),
    peak=math.inf,
    flops=product_flops(traced.jaxpr.jaxpr, mesh.size),
    sent={},
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


def _held(tree: Any) -> int:
  """Bytes of abstract arrays on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
