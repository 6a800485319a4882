"""Kernels that an ONNX graph makes of coefficients."""

import numpy as np
import pytest
import scipy.fft

from spectral_jax.core.selection import KINDS, Selection
from spectral_jax.export.graph import Graph
from spectral_jax.export.rebuilding import kernel_in_graph, positions_in_graph

_REASON = 'wants requirements-export.txt'
pytest.importorskip('onnx', reason=_REASON)
onnxruntime = pytest.importorskip('onnxruntime', reason=_REASON)


@pytest.mark.parametrize('shape', [(12, 18), (18, 12), (6, 6)])
@pytest.mark.parametrize('kind', KINDS)
def test_kernels_and_positions_are_ours(
  kind: str, shape: tuple[int, int]
) -> None:
  keep = 0.5 if kind == 'strided' else 0.4
  for seed in (0, 5, 2**32 - 1):
    selection = Selection.of(kind, shape, keep, seed)
    coefficients = np.float32(
      np.random.default_rng(seed).normal(size=selection.layout)
    )
    graph = Graph()
    stored = graph.stored('coefficients', coefficients)
    graph.give('kernel', kernel_in_graph(graph, stored, selection))
    graph.give('positions', positions_in_graph(graph, selection))
    outputs = {
      'kernel': (np.float32, shape),
      'positions': (np.int64, selection.positions.shape),
    }
    model = graph.model({}, outputs, {})
    kernel, positions = onnxruntime.InferenceSession(model).run(None, {})
    np.testing.assert_array_equal(positions, selection.positions)
    plane = np.zeros(shape)
    plane.flat[selection.positions] = coefficients.ravel()
    expected = scipy.fft.idctn(plane, norm='ortho')
    np.testing.assert_allclose(kernel, expected, atol=2e-6)
