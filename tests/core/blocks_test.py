"""The pieces of a kernel: which coefficients have which parity."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core.blocks import by_parity, foldable, quarters
from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import plane_from_coefficients
from spectral_jax.core.selection import Selection

SELECTIONS = [
  Selection('lowpass', (13, 7), 40),
  Selection('lowpass', (1, 9), 4),
  Selection('random', (9, 1), 3),
  Selection('random', (7, 11), 30, seed=4),
  Selection('block', (6, 8), 1),
  Selection('strided', (4, 6), 24),
  Selection('strided', (6, 9), 18, seed=1),
  Selection('strided', (8, 12), 48, seed=1),
  Selection('strided', (8, 12), 24, seed=2),
]


@pytest.mark.parametrize('folds', [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
  'selection', SELECTIONS, ids=lambda s: f'{s.kind}-{s.shape}'
)
def test_pieces_hold_every_coefficient_under_its_parity(
  selection: Selection, folds: tuple[bool, bool]
) -> None:
  folds = folds if foldable(selection, 'dct') else (False, False)
  stored = jnp.arange(1.0, selection.count + 1).reshape(selection.layout)
  pieces = by_parity(stored, selection, folds)
  plane = np.zeros(selection.shape)
  for parity, blocks in pieces.apart().items():
    for block, rows, columns in zip(*blocks, strict=True):
      np.add.at(plane, np.ix_(rows, columns), np.asarray(block))
      i, j = np.nonzero(block)
      for fold, kind, kept in zip(
        folds, parity, (rows[i], columns[j]), strict=True
      ):
        assert not fold or set(kept % 2) <= {kind}
  np.testing.assert_array_equal(
    plane, plane_from_coefficients(stored, selection)
  )
  if all(folds):
    assert len(pieces.parities) == quarters(selection)


@pytest.mark.parametrize('count', [48, 96])
def test_blocks_that_are_stored_are_not_laid_out(count: int) -> None:
  blocks = Selection('strided', (8, 12), count, seed=1)
  split = functools.partial(by_parity, selection=blocks, folds=(True, True))
  program = jax.make_jaxpr(lambda c: split(c).blocks.coefficients)
  used = {e.primitive.name for e in program(jnp.ones(blocks.layout)).eqns}
  assert not used & {'gather', 'scatter', 'concatenate', 'pad'}


@pytest.mark.parametrize(
  ('shape', 'count', 'seed'),
  [
    ((4, 12), 1, 0),
    ((4, 12), 7, 1),  # the last diagonal is filled in part
    ((8, 4), 13, 2),
    ((5, 5), 25, 3),
    ((1, 6), 4, 4),
    ((6, 1), 6, 5),
    ((16, 48), 16 * 20, 6),
  ],
)
def test_for_a_tpu_bands_are_skewed_without_a_scatter(
  shape: tuple[int, int], count: int, seed: int
) -> None:
  band = Selection('band', shape, count, seed)
  stored = jnp.arange(1.0, count + 1)
  plane = jnp.arange(1.0, band.size + 1).reshape(shape)

  def run(platform: str) -> tuple[str, jax.Array, jax.Array]:
    def both(c: jax.Array, plane: jax.Array) -> tuple[jax.Array, jax.Array]:
      lay_out = functools.partial(plane_from_coefficients, selection=band)
      laid_out, pull_back = jax.vjp(lay_out, c)
      return laid_out, pull_back(plane)[0]

    with planned_for(platform):
      return str(jax.make_jaxpr(both)(stored, plane)), *both(stored, plane)

  program, laid_out, gradient = run('tpu')
  assert not re.search('gather|scatter', program)
  assert 'scatter' in run('cpu')[0]  # there it is the faster one
  expected = np.zeros(band.size)
  expected[band.positions] = stored
  np.testing.assert_array_equal(laid_out, expected.reshape(shape))
  np.testing.assert_array_equal(gradient, plane.ravel()[band.positions])


@pytest.mark.parametrize('shape', [(6, 9), (9, 6)])
def test_for_a_tpu_bands_that_are_no_skew_are_scattered(
  shape: tuple[int, int],
) -> None:
  band = Selection('band', shape, 20, seed=1)
  stored = jnp.arange(1.0, 21)
  with planned_for('tpu'):
    laid_out = plane_from_coefficients(stored, band)
  assert (np.asarray(laid_out).flat[band.positions] == stored).all()
