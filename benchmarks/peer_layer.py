"""Spectral linear layers in PyTorch, as its users would write them.

Wants requirements-peers.txt. The plane of coefficients is filled by a scatter;
its inverse DCT is one of the two there are: products with two cosine bases, or
a real FFT along each axis (Makhoul, 1980).
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from spectral_jax.core.dct import dct_basis
from spectral_jax.core.selection import Selection

METHODS = ('gemm', 'fft')
_Function = Callable[..., torch.Tensor]


def use_all_cores() -> None:
  """PyTorch takes as many threads as XLA does."""
  torch.set_num_threads(os.cpu_count() or 1)


def _idct(spectra: torch.Tensor) -> torch.Tensor:
  """The inverse orthonormal DCT-II along the last axis."""
  size = spectra.shape[-1]
  half = size // 2 + 1
  scale = torch.full((size,), math.sqrt(size / 2))
  scale[0] = math.sqrt(size)
  wide = spectra * scale
  mirrored = torch.zeros_like(wide[..., :half])
  mirrored[..., 1:] = wide.flip(-1)[..., : half - 1]
  turn = torch.polar(
    torch.ones(half), math.pi / (2 * size) * torch.arange(half)
  )
  spectrum = torch.complex(wide[..., :half], -mirrored) * turn
  shuffled = torch.fft.irfft(spectrum, size)
  even = (size + 1) // 2
  values = torch.empty_like(shuffled)
  values[..., ::2] = shuffled[..., :even]
  values[..., 1::2] = shuffled[..., even:].flip(-1)
  return values


def rebuilder(selection: Selection, method: str) -> _Function:
  """A function of coefficients [K], in the order of the layout, to a kernel."""
  n, m = selection.shape
  positions = torch.from_numpy(np.array(selection.positions, np.int64))

  def plane(coefficients_K: torch.Tensor) -> torch.Tensor:
    flat = torch.zeros(n * m).scatter(0, positions, coefficients_K)
    return flat.reshape(n, m)

  if method == 'fft':
    return lambda coefficients_K: _idct(_idct(plane(coefficients_K)).T).T
  rows, columns = (torch.from_numpy(np.array(dct_basis(s))) for s in (n, m))
  return lambda coefficients_K: rows.T @ plane(coefficients_K) @ columns


def _call(
  function: _Function, *arguments: torch.Tensor, forward: bool
) -> Callable[[], Any]:
  """Calls a function, and its pullback unless it is forward alone."""
  use_all_cores()
  for argument in arguments:
    argument.requires_grad_(not forward)
  cotangent = torch.randn_like(function(*arguments).detach())

  def call() -> Any:
    outputs = function(*arguments)
    if forward:
      return outputs
    return torch.autograd.grad(outputs, arguments, cotangent)

  return call


def rebuildings(
  selections: Mapping[str, Selection], *, forward: bool, kernels: int = 1
) -> dict[str, Callable[[], Any]]:
  """What rebuilds `kernels` of each, one after another, by name and method."""

  def contender(selection: Selection, method: str) -> Callable[[], Any]:
    call = _call(
      rebuilder(selection, method),
      torch.randn(selection.count),
      forward=forward,
    )
    return lambda: [call() for _ in range(kernels)]

  return {
    f'PyTorch {name}, {method}': contender(selection, method)
    for name, selection in selections.items()
    for method in METHODS
  }


def layers(
  shape: tuple[int, int],
  selections: Mapping[str, Selection],
  tokens: int,
  dtype: str,
  *,
  forward: bool,
) -> dict[str, Callable[[], Any]]:
  """What applies layers to tokens; the dense one comes first."""
  inputs_TxN = torch.randn(tokens, shape[0], dtype=getattr(torch, dtype))

  def contender(weights: _Function, stored: torch.Tensor) -> Callable[[], Any]:
    def layer(inputs_TxN: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
      return inputs_TxN @ weights(stored).to(inputs_TxN.dtype)

    return _call(layer, inputs_TxN, stored, forward=forward)

  found = {
    'PyTorch dense': contender(lambda kernel: kernel, torch.randn(shape))
  }
  for name, selection in selections.items():
    for method in METHODS:
      found[f'PyTorch {name}, {method}'] = contender(
        rebuilder(selection, method), torch.randn(selection.count)
      )
  return found
