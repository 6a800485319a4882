"""Small NNX layers, and what tests of them have in common."""

from typing import Any

import jax
from flax import nnx

NORMAL = nnx.initializers.normal()


def draw(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(0), shape)


@nnx.jit
def run(model: Any, inputs: jax.Array) -> jax.Array:
  return model(inputs)


def linear(inputs: int = 8, outputs: int = 8, **settings: Any) -> nnx.Linear:
  return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0), **settings)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  return {
    '/'.join(map(str, path)): leaf.shape
    for path, leaf in nnx.to_flat_state(nnx.state(model))
  }
