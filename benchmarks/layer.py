"""One layer: dense against spectral, by every method, and what `auto` picks.

  python -m benchmarks.layer [--shapes=128x512,1024x4096] [--passes=forward]
    [--dtype=bfloat16] [--kernels=8] [--peers] [--topology=v5e:2x2]

Two tables for each shape N×M: the rebuilding of its kernel alone, or of several
in one program, against `jax.scipy.fft.idctn`, the definition; and the whole
layer on some tokens, against a dense one. Contenders take turns, so that they
share the machine's moods; read the ratios. `benchmarks/roofline.py` says what
the roofline is that they are held against. A third table says what `auto`
picks, why, and how much longer that takes than the fastest that was timed.
`gemm_bf16`, which rounds, takes part with bfloat16 or if asked for; `auto`
weighs it for layers in bfloat16, but not on CPUs.

With --peers PyTorch takes its turns too, its rebuilding by two products or by
FFTs (pip install -r requirements-peers.txt). With --topology nothing is timed:
a TPU's compiler, which needs no TPU (requirements-tpu.txt), tells what it
expects.
"""

import dataclasses
import functools
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import contenders, timing
from benchmarks.arguments import fail, import_peers, parse_flags
from benchmarks.compiled import compile_anew, devices_of
from benchmarks.layer_calls import Call, Layers, rebuilding
from benchmarks.roofline import Roofline
from spectral_jax.core.plan import Plan, plan
from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import KERNEL_METHODS, METHODS
from spectral_jax.core.selection import Selection
from spectral_jax.training.machine import keep_memory

_SHAPES = flags.DEFINE_list('shapes', '128x512,1024x4096', 'N×M of kernels.')
_TOKENS = flags.DEFINE_integer('tokens', 2048, 'Of the layer.', lower_bound=1)
_KERNELS = flags.DEFINE_integer(
  'kernels', 1, 'That one call rebuilds, as a model does.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted calls.', lower_bound=1)
_SELECTIONS = flags.DEFINE_list(
  'selections',
  'strided/2,strided/4,random/2,lowpass/2,block/16',
  'KIND/B keeps nm/B.',
)
_METHODS = flags.DEFINE_list(
  'methods', None, 'To rebuild by, auto among them; by default all.'
)
_PASSES = flags.DEFINE_enum(
  'passes', 'both', ['both', 'forward'], 'With the backward pass, or without.'
)
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of the layer.'
)
_PEERS = flags.DEFINE_bool('peers', False, 'Times PyTorch as well.')
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'Of TPUs to compile for, as v5e:2x2; nothing is timed.'
)


def _shape(text: str) -> tuple[int, int]:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
  n, m = map(int, match.groups()) if match else (0, 0)
  if not 0 < max(n, m) <= 2**15:
    fail(f'--shapes: expected NxM, each up to 32768, got {text!r}.')
  return n, m


def _selections(shape: tuple[int, int]) -> dict[str, Selection]:
  """Those of the flag, on a shape."""
  try:
    return {
      name: config.select(shape, seed=0)
      for name, config in contenders.parse_selections(_SELECTIONS.value).items()
    }
  except ValueError as error:
    fail(f'--selections: {error}')


def _methods() -> tuple[str, ...]:
  """Those of the flag."""
  if _METHODS.value is not None:
    return contenders.parse_methods(_METHODS.value)
  left_out = set()
  if _DTYPE.value != 'bfloat16':
    left_out.add('gemm_bf16')
  if _TOPOLOGY.value is None and jax.default_backend() != 'tpu':
    left_out.add('fused')  # it is `folded` there
  return tuple(method for method in METHODS if method not in left_out)


@dataclasses.dataclass(frozen=True)
class _Table:
  """Contenders that are compared with the first of them.

  Attributes:
    title: what they compute.
    calls: by name, which for spectral ones is `SELECTION, METHOD`.
    plans: what `auto` picks, by selection.
    peers: PyTorch's, by name.
    products: the dtype and the precision of most of their products.
  """

  title: str
  calls: dict[str, Call]
  plans: dict[str, Plan]
  peers: dict[str, Callable[[], Any]]
  products: tuple[str, str]

  def time(self, rounds: int) -> None:
    """Prints what each takes on this machine, in turn."""
    roofline = Roofline.measure(*self.products)
    here = {name: call.here() for name, call in self.calls.items()}
    times = timing.interleave(here | self.peers, rounds)
    medians = {name: statistics.median(each) for name, each in times.items()}
    shares = {
      name: roofline.share(call, medians[name] / 1e3)
      for name, call in self.calls.items()
    }
    timing.print_ratios(self.title, times, shares, str(roofline))
    self._print_picks(medians)

  def compile_for(self, device: jax.Device) -> None:
    """Prints what the compiler of a device that is not here expects."""
    print(
      f'\n| {self.title} | expected ms | ratio | GFLOP | MiB moved | '
      'MiB of memory | MiB of program | compiled in s |'
    )
    print('|---|---|---|---|---|---|---|---|')
    expected: dict[str, float] = {}
    for name, call in self.calls.items():
      program = call.compile_for(device)
      # Of a loop the compiler counts the body once, of what Pallas makes the
      # program traced a step.
      flops = max(program.flops, call.flops)
      told = '– | –'
      if program.seconds is not None:
        expected[name] = 1e3 * program.seconds
        first = expected.get(next(iter(self.calls)))
        ratio = f'{expected[name] / first:.3f}' if first else '–'
        told = f'{expected[name]:.3g} | {ratio}'
      print(
        f'| {name} | {told} | {flops / 1e9:.3g} | '
        f'{program.accessed / 2**20:.1f} | {program.memory / 2**20:.1f} | '
        f'{program.size / 2**20:.1f} | {program.compile:.1f} |',
        flush=True,
      )
    self._print_picks(expected)

  def _print_picks(self, milliseconds: Mapping[str, float]) -> None:
    """Prints how far from the fastest it is what `auto` picks, and why."""
    if not self.plans:
      return
    print(f'\n| {self.title} | auto picks | to the fastest | it estimates |')
    print('|---|---|---|---|')
    for name, chosen in self.plans.items():
      # What rounds is not always among what it may pick.
      allowed = (
        milliseconds.get(f'{name}, {method}')
        for method in METHODS
        if method != 'gemm_bf16' or method in chosen.seconds
      )
      picked = milliseconds.get(f'{name}, {chosen.method}')
      ratio = '–'
      if picked is not None:
        ratio = f'{picked / min(ms for ms in allowed if ms is not None):.3f}'
      print(f'| {name} | {chosen.method} | {ratio} | {chosen} |')


def _by_methods(
  make: Callable[[Selection, str], Call],
  selections: Mapping[str, Selection],
  plans: Mapping[str, Plan],
  methods: Sequence[str],
) -> dict[str, Call]:
  """Each selection by each method; for `auto`, by the one that it picks."""
  return {
    f'{name}, {method}': make(selection, method)
    for name, selection in selections.items()
    for method in sorted(
      {
        plans[name].method if method == 'auto' else method for method in methods
      },
      key=METHODS.index,
    )
  }


def _tables(shape: tuple[int, int], peers: Any) -> Iterator[_Table]:
  """Those of a shape: its kernel's rebuilding, and the layer.

  Args:
    shape: (N, M).
    peers: the module of PyTorch's layers, or None.
  """
  selections, methods = _selections(shape), _methods()
  tokens, dtype = _TOKENS.value, _DTYPE.value
  forward = _PASSES.value == 'forward'
  size = f'{shape[0]}×{shape[1]}'
  passes = 'forward' if forward else 'forward and backward'

  if rebuild_by := [m for m in methods if m in KERNEL_METHODS]:
    plans = {name: plan(selection) for name, selection in selections.items()}
    kernels = _KERNELS.value
    make = functools.partial(rebuilding, forward=forward, kernels=kernels)
    each = f'{kernels} of ' if kernels > 1 else ''
    yield _Table(
      f'rebuilding {each}{size}, {passes}',
      _by_methods(make, selections, plans, rebuild_by),
      plans if 'auto' in methods else {},
      peers.rebuildings(selections, forward=forward, kernels=kernels)
      if peers
      else {},
      ('float32', 'highest'),
    )
  plans = {
    name: plan(selection, tokens, dtype=jnp.dtype(dtype))
    for name, selection in selections.items()
  }
  layers = Layers(shape, tokens, dtype, forward)
  yield _Table(
    f'layer {size}, {tokens} tokens, {dtype}, {passes}',
    {'dense': layers.dense()}
    | _by_methods(layers.spectral, selections, plans, methods),
    plans if 'auto' in methods else {},
    peers.layers(shape, selections, tokens, dtype, forward=forward)
    if peers
    else {},
    (dtype, 'default'),
  )


def main(argv: Sequence[str]) -> None:
  """Prints the tables."""
  if argv[1:]:
    fail(f'unexpected argument {argv[1]!r}; see --help.')
  if _TOPOLOGY.value is None:
    keep_memory()
  shapes = [_shape(text) for text in _SHAPES.value]
  for shape in shapes:
    _selections(shape)
  if _TOPOLOGY.value is None:
    peers = import_peers('peer_layer') if _PEERS.value else None
    timing.print_machine()
    for shape in shapes:
      for table in _tables(shape, peers):
        table.time(_ROUNDS.value)
    return
  if _PEERS.value:
    fail('--peers: PyTorch is timed here; leave --topology out.')
  device = devices_of(_TOPOLOGY.value)[0]
  compile_anew()
  print(
    f'one device of {_TOPOLOGY.value}, by its compiler; jax {jax.__version__}'
  )
  with planned_for(device.platform):
    for shape in shapes:
      for table in _tables(shape, None):
        table.compile_for(device)


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
