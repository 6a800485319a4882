"""Positions never move: a checkpoint's numbers mean what they meant.

golden_positions.json was written once. To add a kind or a shape, add it there;
an entry that exists must never change.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from spectral_jax.core.selection import KINDS, Selection

GOLDEN = json.loads(
  (Path(__file__).parent / 'golden_positions.json').read_text()
)


@pytest.mark.parametrize('entry', GOLDEN, ids=lambda e: str(e['selection']))
def test_positions_are_pinned(entry: dict[str, object]) -> None:
  kind, shape, count, seed = entry['selection']
  selection = Selection(kind, tuple(shape), count, seed)
  positions = selection.positions
  assert positions[:16].tolist() == entry['first']
  assert list(selection.layout) == entry['layout']
  digest = hashlib.sha256(np.ascontiguousarray(positions, '<i4')).hexdigest()
  assert digest == entry['sha256']


def test_every_kind_is_pinned_at_several_shapes() -> None:
  for kind in KINDS:
    shapes = {
      tuple(e['selection'][1]) for e in GOLDEN if e['selection'][0] == kind
    }
    assert len(shapes) >= 3
