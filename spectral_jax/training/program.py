"""What a compiled step costs, read from its program: products and messages."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.extend.core

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4}
_BYTES |= {'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """Arrays that devices send each other.

  Attributes:
    kind: all-gather, all-reduce, reduce-scatter, all-to-all or
      collective-permute.
    shape: of an array where it is whole: after gathering, before scattering.
    bytes: of this array.
    times: how often a step does it, loops counted.
  """

  kind: str
  shape: tuple[int, ...]
  bytes: int
  times: int


def collectives(program: str) -> list[Collective]:
  """The collective operations of a compiled program.

  Args:
    program: its text, `compiled.as_text()`. An operation counts once, be it in
      two halves, or, on TPU, a chain of fusions that overlap it with others;
      one in a loop counts as often as the loop runs.
  """
  computations = dict(_computations(program))
  callers = _callers(computations)
  found: list[Collective] = []
  for name, lines in computations.items():
    # Each link of a chain names its operation; one of them begins it.
    begins = any('"AsyncCollectiveStart"' in line for line in lines)
    for line in lines:
      operation = re.search(
        rf'= (.*?) ({"|".join(_KINDS)})(-start)?\((.*)', line
      )
      if operation is None:
        continue
      if 'chain_id=' in line and not begins:
        continue
      found += _of_operation(operation, _times(name, callers))
  return found


def _computations(program: str) -> Iterator[tuple[str, list[str]]]:
  """Names of computations and their lines; that of the entry is empty."""
  lines: list[str] = []
  for line in program.splitlines():
    header = re.match(r'(ENTRY )?%?([\w.-]+) \(.*\{$', line)
    if header:
      lines = []
      yield '' if header[1] else header[2], lines
    else:
      lines.append(line)


class _Call(NamedTuple):
  caller: str
  times: int


def _callers(computations: dict[str, list[str]]) -> dict[str, list[_Call]]:
  """From where each computation is called."""
  callers = defaultdict(list)
  for caller, lines in computations.items():
    for line in lines:
      for way, callee in re.findall(
        r'(body|condition|calls|to_apply)=%?([\w.-]+)', line
      ):
        times = _trips(line, computations) if way == 'body' else 1
        callers[callee].append(_Call(caller, times))
  return callers


def _trips(loop: str, computations: dict[str, list[str]]) -> int:
  """How often a loop runs: as the program says, or as it is compared with."""
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop)
  if known is None:
    condition = re.search(r'condition=%?([\w.-]+)', loop)
    lines = computations.get(condition[1], []) if condition else []
    known = re.search(r' constant\((\d+)\)', '\n'.join(lines))
  return int(known[1]) if known else 1


def _times(name: str, callers: dict[str, list[_Call]]) -> int:
  """How often a computation runs in a step."""
  if not name:
    return 1
  return sum(_times(c.caller, callers) * c.times for c in callers[name])


def _of_operation(operation: re.Match[str], times: int) -> Iterator[Collective]:
  """What an operation sends, from its text: `outputs kind-start(rest`."""
  outputs, kind, start, rest = operation.groups()
  arrays = re.findall(r'(\w+)\[([\d,]*)\]', outputs)
  if start and kind != 'all-reduce':  # the inputs, the outputs, and flags
    arrays = arrays[1:2]
  parts = _group_size(rest) if kind == 'reduce-scatter' else 1
  for dtype, sizes in arrays:
    shape = tuple(int(size) for size in sizes.split(',') if size)
    yield Collective(
      kind, shape, parts * math.prod(shape) * _BYTES[dtype], times
    )


def _group_size(line: str) -> int:
  """Among how many devices an operation goes on."""
  if tiled := re.search(r'replica_groups=\[\d+,(\d+)\]', line):
    return int(tiled[1])
  if named := re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', line):
    sizes = dict(re.findall(r"('\w+')=(\d+)", named[1]))
    return math.prod(int(sizes[axis]) for axis in named[2].split(','))
  listed = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
  return len(listed[1].split(',')) if listed else 1


def product_flops(jaxpr: Any, devices: int) -> int:
  """Multiplications and additions of a step's matrix products, on a device.

  Args:
    jaxpr: of the step, `step.trace(…).jaxpr`.
    devices: among which products outside of `shard_map` are divided.
  """
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      terms = math.prod(shape[axis] for axis in contracted)
      total += 2 * terms * equation.outvars[0].aval.size // devices
      continue
    inner = sum(
      product_flops(sub, 1 if name == 'shard_map' else devices)
      for sub in _sub_jaxprs(equation.params)
    )
    total += inner * (equation.params['length'] if name == 'scan' else 1)
  return total


def _sub_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, jax.extend.core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, jax.extend.core.Jaxpr):
        yield item
