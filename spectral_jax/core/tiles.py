"""How a product is cut for a TPU's on-chip memory.

Shapes: T tokens; kernel [N, M]; B blocks of R×C coefficients.
"""

from typing import NamedTuple

import jax.numpy as jnp

# Of 64 MiB (v5p, a core of tpu7x) or 128 (v5e, v6e): what a program may ask
# for, and what its tiles may take; Mosaic's temporaries take the rest.
VMEM_BYTES = 60 * 2**20
_TILES_BYTES = 52 * 2**20
# A tile's last axis is a multiple of 128; the one before it of 8 numbers of 32
# bits or of 16 of half as many.
LANES = 128
_SUBLANES = 16


class Tiles(NamedTuple):
  """How much of T, R and M one step takes."""

  tokens: int
  rows: int
  columns: int


_LARGEST = (
  Tiles(512, 256, 1024),
  Tiles(512, 256, 512),
  Tiles(512, 256, 256),
  Tiles(256, 128, 256),
  Tiles(128, 128, 128),
)


def choose_tiles(
  tokens: int,
  kernel: tuple[int, int],
  layout: tuple[int, int, int],
  dtype: jnp.dtype,
  *,
  backward: bool,
) -> Tiles:
  """The widest panels that fit into on-chip memory.

  Args:
    tokens: T.
    kernel: (N, M), or (M, N) for the product with Wᵀ.
    layout: (B, R, C), or (B, C, R).
    dtype: of inputs, coefficients and bases.
    backward: whether the gradient of all coefficients is summed up there.

  Returns:
    Tiles of T, R and M, which cut them into equal parts, the last of which may
    be filled up with zeros.

  Raises:
    ValueError: where none fit, or for a dtype that is neither float32 nor
      bfloat16.

  Example:
    >>> layout, dtype = (1, 2048, 2048), jnp.dtype('float32')
    >>> choose_tiles(600, (2048, 2048), layout, dtype, backward=False)
    Tiles(tokens=304, rows=256, columns=512)
  """
  if dtype not in (jnp.float32, jnp.bfloat16):
    raise ValueError(
      "method: 'fused' multiplies float32 or bfloat16, got "
      f"{jnp.dtype(dtype).name}; take 'gemm'."
    )
  (n, m), (b, r, c) = kernel, layout
  n, c = up(n, LANES), up(c, LANES)
  least = 0
  for most in _LARGEST:
    tiles = Tiles(
      _equal(tokens, most.tokens, _SUBLANES),
      _equal(r, most.rows, LANES),
      _equal(m, most.columns, LANES),
    )
    least = _bytes(tiles, n, c, jnp.dtype(dtype).itemsize)
    if backward:
      least += 4 * b * up(r, tiles.rows) * c
    if least <= _TILES_BYTES:
      return tiles
  raise ValueError(
    f"method: 'fused' holds {'gradients of ' * backward}{b} blocks of {r}×{c} "
    f'coefficients and a panel of {n} rows in on-chip memory, {least >> 20} '
    f"MiB where there are {_TILES_BYTES >> 20}; take 'gemm', or store less."
  )


def _bytes(tiles: Tiles, n: int, c: int, width: int) -> int:
  """Of on-chip memory: a panel, its rounded copy, and two of each tile."""
  t, r, p = tiles
  read = t * n + t * p + r * c + r * n + c * p
  return (4 + 4 + width) * n * p + 2 * width * read + 4 * p * (t + r)


def up(size: int, unit: int) -> int:
  """The next multiple of a unit."""
  return -(-size // unit) * unit


def _equal(size: int, most: int, unit: int) -> int:
  """A multiple of a unit that cuts a size into few and about equal parts."""
  return up(-(-size // -(-size // most)), unit)
