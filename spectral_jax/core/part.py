"""Parts of a kernel, of which each of several devices rebuilds one."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Part:
  """One of equal parts of a kernel, as a device of several rebuilds it.

  Attributes:
    axis: 0 for some of its rows, 1 for some of its columns.
    index: which part, an integer that may be traced.
    count: how many parts there are; it divides the axis.
  """

  axis: int
  index: jax.typing.ArrayLike
  count: int

  def cut(self, array: jax.Array, axis: int) -> jax.Array:
    """This part of any array that is as long along an axis."""
    size, rest = divmod(array.shape[axis], self.count)
    if rest:
      raise ValueError(
        f'part: expected a count that divides {array.shape[axis]}, got '
        f'{self.count}.'
      )
    return jax.lax.dynamic_slice_in_dim(array, self.index * size, size, axis)
