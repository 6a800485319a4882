"""Kernels from coefficients inside an ONNX graph.

Of a kernel the file holds its K coefficients and no more: where they lie, and
the cosines, are computed when the model is loaded.

Shapes: kernel [N, M]; K coefficients; B blocks of R×C coefficients.
"""

import math

import numpy as np

from spectral_jax.core.selection import Selection
from spectral_jax.export.graph import Graph


def kernel_in_graph(
  graph: Graph, coefficients: str, selection: Selection
) -> str:
  """The kernel [N, M] of coefficients in the layout of a selection."""
  n, m = selection.shape
  zeros = graph.op('ConstantOfShape', graph.constant([n * m]))
  flat_K = graph.op('Reshape', coefficients, graph.constant([-1]))
  flat = graph.op(
    'ScatterElements', zeros, positions_in_graph(graph, selection), flat_K
  )
  plane_NxM = graph.op('Reshape', flat, graph.constant([n, m]))
  left_NxN = graph.op('Transpose', _basis(graph, n), perm=[1, 0])
  half_NxM = graph.op('MatMul', plane_NxM, _basis(graph, m))
  return graph.op('MatMul', left_NxN, half_NxM)


def positions_in_graph(graph: Graph, selection: Selection) -> str:
  """What `Selection.positions` has, [K], computed as it is there."""
  if selection.kind == 'strided':
    rows_BxR, columns_BxC = selection.frequencies
    b = selection.stride
    steps_R = _range(graph, rows_BxR.shape[1], axis=1, axes=3)
    steps_C = _range(graph, columns_BxC.shape[1], axis=2, axes=3)
    first_B, also_B = (
      graph.constant(f[:, 0].reshape(b, 1, 1)) for f in (rows_BxR, columns_BxC)
    )
    i_BxRx1 = graph.op('Add', _linear(graph, steps_R, b, 0), first_B)
    j_Bx1xC = graph.op('Add', _linear(graph, steps_C, b, 0), also_B)
    return _flat(graph, i_BxRx1, j_Bx1xC, selection)
  count = graph.constant([selection.count])
  if selection.kind == 'band':
    order = _diagonals(graph, selection)
    return graph.op('Slice', order, graph.constant([0]), count)
  # TopK takes the first of equal keys first, as a stable sort does.
  _, order = graph.ops(
    'TopK', _sort_keys(graph, selection), count, outputs=2, largest=0
  )
  return order


def _range(graph: Graph, size: int, axis: int = 0, axes: int = 1) -> str:
  """0 … size − 1 along one of some axes."""
  shape = [1] * axes
  shape[axis] = size
  numbers = graph.op(
    'Range', graph.constant(0), graph.constant(size), graph.constant(1)
  )
  return graph.op('Reshape', numbers, graph.constant(shape))


def _linear(
  graph: Graph, values: str, slope: int, shift: int | np.int64
) -> str:
  """Integers times a slope, and a shift added."""
  scaled = graph.op('Mul', values, graph.constant(slope))
  return graph.op('Add', scaled, graph.constant(shift))


def _flat(graph: Graph, i: str, j: str, selection: Selection) -> str:
  """The positions i·M + j, in a row."""
  plane = graph.op('Add', _linear(graph, i, selection.shape[1], 0), j)
  return graph.op('Reshape', plane, graph.constant([-1]))


def _basis(graph: Graph, size: int) -> str:
  """The orthonormal DCT-II matrix, see `core.dct.dct_basis`."""
  row, place = (_range(graph, size, axis, axes=2) for axis in (0, 1))
  # Reduced in integers: in float32 the cosine of a large phase errs.
  product = graph.op('Mul', _linear(graph, place, 2, 1), row)
  phase = graph.op('Mod', product, graph.constant(4 * size))
  angle = graph.op(
    'Mul',
    graph.op('Cast', phase, to=np.float32),
    graph.constant(math.pi / (2 * size), np.float32),
  )
  scale = graph.op(
    'Where',
    graph.op('Equal', row, graph.constant(0)),
    graph.constant(math.sqrt(1 / size), np.float32),
    graph.constant(math.sqrt(2 / size), np.float32),
  )
  return graph.op('Mul', graph.op('Cos', angle), scale)


def _diagonals(graph: Graph, selection: Selection) -> str:
  """All positions in the order of `band`."""
  n, m = selection.shape
  short, long = min(n, m), max(n, m)
  offset = int(selection.positions[0]) // (m if n > m else 1)
  line_1xS = _range(graph, short, axis=1, axes=2)
  first_Lx1 = _linear(graph, _range(graph, long, axis=0, axes=2), 1, offset)
  steps_1xS = graph.op(
    'Div', _linear(graph, line_1xS, long, 0), graph.constant(short)
  )
  place_LxS = graph.op(
    'Mod', graph.op('Add', steps_1xS, first_Lx1), graph.constant(long)
  )
  i, j = (place_LxS, line_1xS) if n > m else (line_1xS, place_LxS)
  return _flat(graph, i, j, selection)


def _sort_keys(graph: Graph, selection: Selection) -> str:
  """By which `random`, `lowpass` and `block` order all positions, [N·M]."""
  n, m = selection.shape
  if selection.kind == 'random':
    numbers = _linear(
      graph, _range(graph, n * m), 1, _signed(selection.seed << 32)
    )
    mixed = _mix(graph, _mix(graph, numbers))
    # The order of unsigned numbers, to one of signed ones.
    return graph.op('BitwiseXor', mixed, graph.constant(-(2**63)))
  i_Nx1 = _linear(graph, _range(graph, n, 0, axes=2), 2 * m, m)
  j_1xM = _linear(graph, _range(graph, m, 1, axes=2), 2 * n, n)
  kind = 'Add' if selection.kind == 'lowpass' else 'Max'
  return graph.op('Reshape', graph.op(kind, i_Nx1, j_1xM), graph.constant([-1]))


def _mix(graph: Graph, values: str) -> str:
  """`core.hashing.mix` in int64, whose sums and products wrap alike."""

  def shifted(values: str, bits: int) -> str:
    unsigned = graph.op('Cast', values, to=np.uint64)
    right = graph.op(
      'BitShift', unsigned, graph.constant(bits, np.uint64), direction='RIGHT'
    )
    right = graph.op('Cast', right, to=np.int64)
    return graph.op('BitwiseXor', values, right)

  def times(values: str, factor: int) -> str:
    return graph.op('Mul', values, graph.constant(_signed(factor)))

  z = graph.op('Add', values, graph.constant(_signed(0x9E3779B97F4A7C15)))
  z = times(shifted(z, 30), 0xBF58476D1CE4E5B9)
  z = times(shifted(z, 27), 0x94D049BB133111EB)
  return shifted(z, 31)


def _signed(number: int) -> np.int64:
  return np.uint64(number).astype(np.int64)
