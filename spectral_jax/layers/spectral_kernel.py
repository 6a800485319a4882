"""How a layer's kernel is stored, and the way between the two forms.

Shapes: a kernel is a matrix [N, M], and in a leaf of a parameter tree N may be
several axes I and M several axes O; S are the axes of a stack of kernels (of
scanned layers, experts, …), usually the first.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.core.basis import BASES
from spectral_jax.core.part import Part
from spectral_jax.core.plan import plan
from spectral_jax.core.reconstruct import (
  PRODUCTS,
  check_basis,
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import Selection

_MOST_AXES = 12


def stack_axes(
  shape: Sequence[int], is_one: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...]:
  """The axes of a leaf without which it is one kernel, as few as possible.

  Of several choices the leading axes are taken, where Flax stacks by default.

  Raises:
    ValueError: if there are none, or the leaf has more axes than any model's.
  """
  if len(shape) > _MOST_AXES:  # all their subsets are tried
    raise ValueError(f'shape: expected at most {_MOST_AXES} axes, got {shape}.')
  for count in range(len(shape)):
    for stack in itertools.combinations(range(len(shape)), count):
      if is_one(tuple(s for a, s in enumerate(shape) if a not in stack)):
        return stack
  raise ValueError(f'shape: {tuple(shape)} is no stack of such kernels.')


def flattens_to(shape: Sequence[int], matrix: tuple[int, int]) -> bool:
  """Whether leading axes multiply to N, and the others to M."""
  splits = range(1, len(shape))
  return any(
    (math.prod(shape[:k]), math.prod(shape[k:])) == matrix for k in splits
  )


def _map_stack(
  change: Callable[[jax.Array], jax.Array],
  stacked: jax.Array,
  before: Sequence[int],
  after: Sequence[int],
) -> jax.Array:
  """Changes each array of a stack alike; its axes lie at `before`, `after`."""
  for _ in before:
    change = jax.vmap(change)
  front = range(len(before))
  return jnp.moveaxis(
    change(jnp.moveaxis(stacked, before, front)), front, after
  )


@dataclasses.dataclass(frozen=True)
class SpectralKernel:
  """What a spectral layer stores of its kernel, or of a stack of kernels.

  Attributes:
    selection: the positions of the K coefficients of each kernel [N, M].
    basis: `dct`, or `orthonormal`.
    shape: of the kernel in the dense layer's tree; by default (N, M).
    stack: those of its axes that are a stack of kernels.

  Raises:
    ValueError: for a shape that is no kernel, or stack of kernels, [N, M].

  Example:
    >>> half = Selection.of('lowpass', (8, 12), keep=0.5)
    >>> heads = SpectralKernel(half, shape=(8, 3, 4))
    >>> coefficients = heads.project(jnp.ones((8, 3, 4)))
    >>> coefficients.shape, heads.rebuild(coefficients).shape
    ((48,), (8, 3, 4))
  """

  selection: Selection
  basis: str = 'dct'
  shape: tuple[int, ...] = ()
  stack: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    if not self.shape:
      object.__setattr__(self, 'shape', self.selection.shape)
    if self.basis not in BASES:
      raise ValueError(
        f'basis: expected one of {", ".join(BASES)}, got {self.basis!r}.'
      )
    axes = range(len(self.shape))
    if sorted(set(self.stack) & set(axes)) != sorted(self.stack):
      raise ValueError(
        f'stack: expected axes of the kernel {self.shape}, each once, got '
        f'{self.stack}.'
      )
    if not flattens_to(self._one, self.selection.shape):
      n, m = self.selection.shape
      raise ValueError(
        f'shape: expected {n}×{m} kernels, stacked along the axes '
        f'{self.stack}, got {self.shape}.'
      )

  @property
  def _one(self) -> tuple[int, ...]:
    """The shape of one kernel of the stack."""
    return tuple(s for a, s in enumerate(self.shape) if a not in self.stack)

  @property
  def _stack_shape(self) -> tuple[int, ...]:
    return tuple(self.shape[axis] for axis in self.stack)

  @property
  def _coefficient_stack(self) -> tuple[int, ...]:
    """Where the stack is in the coefficients: the last axis remains so."""
    last = len(self.shape) - 1
    return tuple(-1 if axis == last else axis for axis in self.stack)

  @property
  def copies(self) -> int:
    """The number of kernels in the stack."""
    return math.prod(self._stack_shape)

  @property
  def layout(self) -> tuple[int, ...]:
    """The shape of the stored coefficients, with the stack."""
    stacked = (*self._stack_shape, *self.selection.layout)
    return np.moveaxis(
      np.broadcast_to(0, stacked),
      range(len(self.stack)),
      self._coefficient_stack,
    ).shape

  def map_coefficients(
    self, change: Callable[[jax.Array], jax.Array], coefficients: jax.Array
  ) -> jax.Array:
    """Changes the coefficients [*selection.layout] of each kernel alike."""
    place = self._coefficient_stack
    return _map_stack(change, coefficients, place, place)

  def project(self, kernel: jax.Array) -> jax.Array:
    """The coefficients that come nearest to a kernel, in least squares.

    Args:
      kernel: [*shape].

    Returns:
      [*layout].

    Raises:
      ValueError: for a kernel of another shape.
    """
    if kernel.shape != self.shape:
      raise ValueError(
        f'kernel: expected shape {self.shape}, got {kernel.shape}.'
      )

    def project(kernel: jax.Array) -> jax.Array:
      matrix = kernel.reshape(self.selection.shape)
      return coefficients_from_kernel(matrix, self.selection, basis=self.basis)

    return _map_stack(project, kernel, self.stack, self._coefficient_stack)

  def rebuild(
    self,
    coefficients: jax.Array,
    method: str = 'auto',
    part: Part | None = None,
    dtype: Any = jnp.float32,
  ) -> jax.Array:
    """The kernel [*shape] of coefficients [*layout].

    Args:
      coefficients: [*layout].
      method: see `kernel_from_coefficients`; `factored`, `folded` and `fused`,
        which give none, stand for `auto` where one is wanted all the same.
      part: of each kernel, which must then be a matrix in the tree too.
      dtype: of the product that the kernel is for, see `plan`; not its own.

    Raises:
      ValueError: for coefficients of another shape.
    """
    if coefficients.shape != self.layout:
      raise ValueError(
        f'coefficients: expected shape {self.layout}, got {coefficients.shape}.'
      )

    if method == 'auto' or method in PRODUCTS:
      method = plan(
        self.selection, basis=self.basis, dtype=dtype, whole=part is None
      ).method

    def rebuild(coefficients: jax.Array) -> jax.Array:
      kernel = kernel_from_coefficients(
        coefficients, self.selection, method, self.basis, part
      )
      return kernel.reshape(self._one) if part is None else kernel

    return _map_stack(
      rebuild, coefficients, self._coefficient_stack, self.stack
    )

  def weights(
    self,
    coefficients: jax.Array,
    method: str,
    inputs: jax.Array,
    dtype: Any = None,
    *,
    wants_kernel: bool = False,
  ) -> tuple[jax.Array, Any]:
    """What meets a layer's inputs: the kernel, or the coefficients themselves.

    Args:
      coefficients: [*layout].
      method: see `SpectralDense`.
      inputs: of the layer; only their shape and dtype matter.
      dtype: of the layer's computation; None for the common one of inputs and
        coefficients.
      wants_kernel: whether the layer's product is somebody's own.

    Returns:
      The kernel and None, or the coefficients and what is then to take the
      place of `jax.lax.dot_general`: it multiplies by the coefficients as they
      are stored, whatever they are promoted to.

    Raises:
      ValueError: for a method that gives none where a kernel is wanted.
    """
    wants_kernel = wants_kernel or bool(self.stack)
    if method in PRODUCTS and wants_kernel:
      raise ValueError(
        f'method: {method!r} builds no kernel, which a stack of them or a '
        "dot_general of one's own wants; take 'auto'."
      )
    dtype = dtype or jnp.result_type(inputs, coefficients)
    if method == 'auto' and not wants_kernel:
      tokens = inputs.size // self.selection.shape[0]
      method = plan(
        self.selection, tokens, basis=self.basis, dtype=dtype
      ).method
    if method not in PRODUCTS:
      return self.rebuild(coefficients, method, dtype=dtype), None
    check_basis(method, self.basis)
    if coefficients.shape != self.layout:
      raise ValueError(
        f'coefficients: expected shape {self.layout}, got {coefficients.shape}.'
      )
    product = functools.partial(PRODUCTS[method], coefficients=coefficients)
    return coefficients, functools.partial(self._dot_general, product)

  def _dot_general(
    self,
    product: Callable[..., jax.Array],
    inputs: jax.Array,
    promoted: jax.Array,
    dimensions: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
  ) -> jax.Array:
    """`jax.lax.dot_general` of inputs and the kernel of coefficients."""
    # The product has them as they are stored. The sharding is None: else the
    # layer wants a kernel.
    del promoted, out_sharding
    (axis, _), _ = dimensions
    n, _ = self.selection.shape
    rest = tuple(a for a in range(inputs.ndim) if a not in axis)
    inputs_TxN = jnp.transpose(inputs, (*rest, *axis)).reshape(-1, n)
    outputs_TxM = product(
      inputs_TxN, selection=self.selection, precision=precision
    )
    outputs = outputs_TxM.reshape(
      *(inputs.shape[a] for a in rest), *self.shape[len(axis) :]
    )
    return outputs.astype(preferred_element_type or outputs.dtype)
