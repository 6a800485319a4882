"""The pieces of a kernel: which coefficients have which parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.core.blocks import by_parity, foldable, quarters
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
