"""One layer, forward and backward: dense against spectral, by every method.

  python -m benchmarks.layer [--shapes=128x512,1024x4096] [--tokens=2048]

Two tables for each shape N×M: the rebuilding of its kernel alone, against
`jax.scipy.fft.idctn`, the definition; and the whole layer on some tokens,
against a dense one. Contenders take turns, so that they share the machine's
moods; read the ratios.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import timing
from benchmarks.arguments import fail
from spectral_jax.core.reconstruct import kernel_from_coefficients
from spectral_jax.core.selection import Selection

_SHAPES = flags.DEFINE_list('shapes', '128x512,1024x4096', 'N×M of kernels.')
_TOKENS = flags.DEFINE_integer('tokens', 2048, 'Of the layer.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Counted calls.', lower_bound=1)
_KEEPS = {
  'strided nm/2': 0.5,
  'strided nm/4': 0.25,
  'lowpass nm/2': 0.5,
  'random nm/2': 0.5,
}


def _shape(text: str) -> tuple[int, int]:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
  n, m = map(int, match.groups()) if match else (0, 0)
  if not 0 < max(n, m) <= 2**15 or n % 4 or m % 4:
    fail(
      f'--shapes: expected NxM, each a multiple of 4 up to 32768, got {text!r}.'
    )
  return n, m


def _selection(name: str, shape: tuple[int, int]) -> Selection:
  return Selection.of(name.split()[0], shape, _KEEPS[name])


def _draw(*shape: int) -> jax.Array:
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _forward_and_backward(
  function: Callable[..., jax.Array], *arguments: jax.Array
) -> Callable[[], Any]:
  """Calls a function and its pullback, compiled as one program."""

  def both(cotangent: jax.Array, *arguments: jax.Array) -> Any:
    outputs, pull_back = jax.vjp(function, *arguments)
    return outputs, pull_back(cotangent)

  compiled = jax.jit(both)
  outputs = jax.eval_shape(function, *arguments)
  cotangent = _draw(*outputs.shape)
  return lambda: compiled(cotangent, *arguments)


def rebuilding(shape: tuple[int, int]) -> dict[str, Callable[[], Any]]:
  """What rebuilds a kernel, by selection and method; `idctn` comes first."""
  found = {}
  for name, method in [('strided nm/2', 'idctn')] + [
    (name, 'gemm') for name in _KEEPS
  ]:
    selection = _selection(name, shape)
    found[f'{name}, {method}'] = _forward_and_backward(
      lambda c, s=selection, method=method: kernel_from_coefficients(
        c, s, method
      ),
      _draw(*selection.layout),
    )
  return found


def layer(shape: tuple[int, int], tokens: int) -> dict[str, Callable[[], Any]]:
  """What applies a layer to tokens; the dense one comes first."""
  inputs = _draw(tokens, shape[0])
  found = {'dense': _forward_and_backward(jnp.matmul, inputs, _draw(*shape))}
  for name in _KEEPS:
    selection = _selection(name, shape)
    found[f'{name}, gemm'] = _forward_and_backward(
      lambda x, c, s=selection: x @ kernel_from_coefficients(c, s, 'gemm'),
      inputs,
      _draw(*selection.layout),
    )
  return found


def main(argv: Sequence[str]) -> None:
  """Prints the tables."""
  del argv
  shapes = [_shape(text) for text in _SHAPES.value]
  timing.print_machine()
  for n, m in shapes:
    for title, contenders in (
      (f'rebuilding {n}×{m}', rebuilding((n, m))),
      (f'layer {n}×{m}', layer((n, m), _TOKENS.value)),
    ):
      timing.print_ratios(
        f'{title}, forward and backward',
        timing.interleave(contenders, _ROUNDS.value),
      )


if __name__ == '__main__':
  app.run(main)
