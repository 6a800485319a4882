"""Train states of a tiny model."""

import functools

import jax
import optax

from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.step import TrainState, init_state

MODEL = Transformer(
  11, TransformerConfig(context=8, width=16, layers=1, heads=1)
)


@functools.cache
def _start(seed: int) -> TrainState:
  return jax.jit(lambda: init_state(MODEL, optax.adam(1e-3), seed))()


def train_state(step: int, seed: int = 0) -> TrainState:
  """A state at a step; another seed gives other parameters."""
  state = _start(seed)
  return state.replace(step=state.step + step)
