"""Files of safetensors that anybody may have made: nothing in them is run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spectral_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class TensorFile:
  """What a file holds; its sizes agree with those that its header tells.

  Attributes:
    path: of the file.
    tensors: by name; `take` removes them.
    metadata: texts by name.
  """

  path: Path
  tensors: dict[str, NDArray[Any]]
  metadata: dict[str, str]

  @classmethod
  def read(cls, path: Path) -> 'TensorFile':
    """Reads a file.

    Raises:
      UserError: if it cannot be read, is cut short, or is none of safetensors.
    """
    try:
      with safe_open(path, framework='numpy') as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
        return cls(path, tensors, file.metadata() or {})
    except OSError as error:
      raise UserError(
        f'{path}: cannot be read ({first_line(error)}); name a file of '
        'safetensors.'
      ) from None
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
      raise UserError(
        f'{path}: no whole file of safetensors ({first_line(error)}); fetch it '
        'again.'
      ) from None

  @property
  def bytes(self) -> int:
    """Of the tensors."""
    return sum(tensor.nbytes for tensor in self.tensors.values())

  def json(self, key: str) -> Any:
    """The JSON in a text of the metadata.

    Raises:
      UserError: if there is none.
    """
    if key not in self.metadata:
      raise UserError(f'{self.path}: metadata: {key!r} is missing.')
    try:
      return json.loads(self.metadata[key])
    except (ValueError, RecursionError) as error:
      raise UserError(
        f'{self.path}: metadata: {key!r} is no JSON ({first_line(error)}).'
      ) from None

  def take(self, name: str, *shape: int) -> NDArray[Any]:
    """Takes out a tensor of floating-point numbers of this shape.

    Raises:
      UserError: if it is missing, or another one.
    """
    return self.take_of(name, ('float32', 'float16', 'bfloat16'), shape).astype(
      np.float32
    )

  def take_of(
    self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]
  ) -> NDArray[Any]:
    """Takes out a tensor of one of these dtypes and this shape.

    Raises:
      UserError: if it is missing, or another one, or has numbers that are not
        finite.
    """
    tensor = self.tensors.pop(name, None)
    if tensor is None:
      raise UserError(f'{self.path}: tensor {name!r} is missing.')
    if tensor.shape != shape or tensor.dtype.name not in dtypes:
      raise UserError(
        f'{self.path}: tensor {name!r}: expected {" or ".join(dtypes)} '
        f'{list(shape)}, got {tensor.dtype.name} {list(tensor.shape)}.'
      )
    if not np.isfinite(tensor.astype(np.float32)).all():
      raise UserError(f'{self.path}: tensor {name!r}: not all are finite.')
    return tensor

  def check_all_taken(self) -> None:
    """Raises UserError if there is a tensor that nothing has taken."""
    if self.tensors:
      names = ', '.join(sorted(self.tensors)[:3])
      raise UserError(
        f'{self.path}: {len(self.tensors)} tensors that the model has no use '
        f'for: {names}{" …" * (len(self.tensors) > 3)}'
      )
