"""Programs of one layer, to be timed here or compiled for a TPU.

Shapes: T tokens; kernel [N, M].
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from benchmarks.compiled import Compiled
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.training.program import product_flops


@functools.lru_cache(maxsize=64)
def _draw(shape: tuple[int, ...], dtype: jnp.dtype, seed: int) -> jax.Array:
  """Normal numbers; contenders that want the same share them."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@dataclasses.dataclass(frozen=True)
class Call:
  """A jitted function and the shapes of its arguments."""

  function: Any
  arguments: tuple[Any, ...]

  @classmethod
  def of(
    cls, function: Callable[..., Any], *arguments: Any, forward: bool
  ) -> 'Call':
    """A function, with its pullback in one program unless `forward`."""
    if forward:
      return cls(jax.jit(function), arguments)

    def both(cotangent: jax.Array, *arguments: Any) -> Any:
      outputs, pull_back = jax.vjp(function, *arguments)
      return outputs, pull_back(cotangent)

    cotangent = jax.eval_shape(function, *arguments)
    return cls(jax.jit(both), (cotangent, *arguments))

  @functools.cached_property
  def flops(self) -> int:
    """Multiplications and additions of its matrix products."""
    return product_flops(jax.make_jaxpr(self.function)(*self.arguments), 1)

  @functools.cached_property
  def bytes(self) -> int:
    """Of its arguments and its results."""
    results = jax.eval_shape(self.function, *self.arguments)
    arrays = jax.tree.leaves((self.arguments, results))
    return sum(array.size * array.dtype.itemsize for array in arrays)

  def here(self) -> Callable[[], Any]:
    """A function that computes it on this machine, from drawn numbers."""
    leaves, tree = jax.tree.flatten(self.arguments)
    drawn = jax.tree.unflatten(
      tree, [_draw(x.shape, x.dtype, seed) for seed, x in enumerate(leaves)]
    )
    return lambda: self.function(*drawn)

  def compile_for(self, device: jax.Device) -> Compiled:
    """Compiles it for a device that need not be here."""
    there = SingleDeviceSharding(device)
    return Compiled.of(
      self.function,
      *jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there),
        self.arguments,
      ),
    )


def rebuilding(
  selection: Selection, method: str, *, forward: bool, kernels: int = 1
) -> Call:
  """Coefficients to kernels, each of its own."""

  def rebuild(*stored: jax.Array) -> list[jax.Array]:
    return [kernel_from_coefficients(c, selection, method) for c in stored]

  coefficients = jax.ShapeDtypeStruct(selection.layout, jnp.float32)
  return Call.of(rebuild, *(kernels * (coefficients,)), forward=forward)


@dataclasses.dataclass(frozen=True)
class Layers:
  """Layers of one shape.

  Attributes:
    shape: (N, M).
    tokens: T.
    dtype: of the inputs and of the computation; parameters are float32.
    forward: whether the backward pass is left out.
  """

  shape: tuple[int, int]
  tokens: int
  dtype: str
  forward: bool

  def _call(self, layer: nn.Module) -> Call:
    inputs = jax.ShapeDtypeStruct(
      (self.tokens, self.shape[0]), jnp.dtype(self.dtype)
    )
    params = jax.eval_shape(layer.init, jax.random.key(0), inputs)
    return Call.of(layer.apply, params, inputs, forward=self.forward)

  def dense(self) -> Call:
    """Flax's own."""
    features = self.shape[1]
    return self._call(nn.Dense(features, use_bias=False, dtype=self.dtype))

  def spectral(self, selection: Selection, method: str) -> Call:
    """Ours, with this selection of its coefficients."""
    return self._call(
      SpectralDense(
        self.shape[1],
        use_bias=False,
        dtype=self.dtype,
        keep=selection.count,
        selection=selection.kind,
        seed=selection.seed,
        method=method,
      )
    )
