"""An ONNX graph, written node by node as an expression is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spectral_jax.errors import UserError

# Gelu is of 20; onnxruntime has known it since 1.17, in browsers too.
OPSET = 20
_IR_VERSION = 9

# NumPy's type and the shape, with axes of any length by name.
Value = tuple[type, Sequence[int | str]]


class Graph:
  """Nodes and constants; a value is known by its name.

  An operation is a function: asked for twice of the same values, it is there
  once.

  Example:
    >>> graph = Graph()
    >>> twice = graph.op('Add', 'x', 'x')
    >>> graph.op('Add', 'x', 'x') == twice
    True
  """

  def __init__(self) -> None:
    self._nodes: list[tuple[str, Sequence[str], list[str], Any]] = []
    self._stored: dict[str, np.ndarray] = {}
    self._known: dict[tuple[Any, ...], list[str]] = {}

  def ops(
    self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any
  ) -> list[str]:
    """The values that an operation has for its inputs.

    Args:
      kind: as ONNX names it.
      *inputs: values.
      outputs: how many there are.
      **attributes: as ONNX names them, a type as NumPy's.
    """
    key = (kind, inputs, outputs, repr(attributes))
    if key not in self._known:
      number = len(self._nodes)
      names = [f'{kind}_{number}_{place}' for place in range(outputs)]
      self._nodes.append((kind, inputs, names, attributes))
      self._known[key] = names
    return self._known[key]

  def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """The only value of an operation."""
    (value,) = self.ops(kind, *inputs, **attributes)
    return value

  def give(self, name: str, value: str) -> str:
    """The same value under a name, that an output may have."""
    self._nodes.append(('Identity', [value], [name], {}))
    return name

  def constant(self, values: ArrayLike, dtype: type = np.int64) -> str:
    """A constant, of int64 unless another type is asked for."""
    array: np.ndarray = np.asarray(values, dtype)
    key = (dtype, array.shape, array.tobytes())
    if key not in self._known:
      self._known[key] = [self.stored(f'constant_{len(self._stored)}', array)]
    return self._known[key][0]

  def stored(self, name: str, values: np.ndarray) -> str:
    """An array that the file holds under a name."""
    self._stored[name] = values
    return name

  def model(
    self,
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    metadata: Mapping[str, str],
  ) -> bytes:
    """The model's file.

    Args:
      inputs: by name.
      outputs: likewise.
      metadata: what the model is to tell of itself.

    Raises:
      UserError: if the package onnx is not installed.
    """
    try:
      import onnx  # here, because only this needs the package
    except ImportError as error:
      raise UserError(
        'ONNX wants the package onnx, which is not installed: pip install -r '
        'requirements-export.txt'
      ) from error
    helper = onnx.helper

    def as_onnx(value: Any) -> Any:
      if isinstance(value, type):
        return helper.np_dtype_to_tensor_dtype(np.dtype(value))
      return value

    def infos(values: Mapping[str, Value]) -> list[Any]:
      return [
        helper.make_tensor_value_info(name, as_onnx(dtype), shape)
        for name, (dtype, shape) in values.items()
      ]

    nodes = [
      helper.make_node(
        kind,
        inputs,
        outputs,
        **{name: as_onnx(value) for name, value in attributes.items()},
      )
      for kind, inputs, outputs, attributes in self._nodes
    ]
    numbers = [
      onnx.numpy_helper.from_array(array, name)
      for name, array in self._stored.items()
    ]
    model = helper.make_model(
      helper.make_graph(
        nodes, 'transformer', infos(inputs), infos(outputs), numbers
      ),
      opset_imports=[helper.make_opsetid('', OPSET)],
      ir_version=_IR_VERSION,
      producer_name='spectral_jax',
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
