"""The choice of a linear layer: what it makes and what it refuses."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from spectral_jax.core.selection import Selection
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.layers.low_rank import LowRankDense
from spectral_jax.layers.product import matrix_product

INIT = nn.initializers.normal(0.5)


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (
      LinearConfig('dense'),
      nn.Dense(8, kernel_init=INIT, dot_general=matrix_product, name='out'),
    ),
    (
      LinearConfig('low_rank', rank=3),
      LowRankDense(8, 3, kernel_init=INIT, name='out'),
    ),
    (
      LinearConfig('spectral', keep=0.25, selection='strided', method='idctn'),
      SpectralDense(
        8,
        kernel_init=INIT,
        keep=0.25,
        selection='strided',
        seed=5,
        method='idctn',
        name='out',
      ),
    ),
    (
      LinearConfig('spectral', basis='orthonormal'),
      SpectralDense(
        8, kernel_init=INIT, seed=5, basis='orthonormal', name='out'
      ),
    ),
  ],
  ids=['dense', 'low_rank', 'spectral', 'orthonormal'],
)
def test_it_makes_the_layer(config: LinearConfig, expected: nn.Module) -> None:
  assert config.make(8, seed=5, kernel_init=INIT, name='out') == expected


def test_a_whole_keep_of_one_is_a_fraction() -> None:
  config = LinearConfig('spectral', keep=1)
  assert config.select((4, 6), seed=0).count == 24
  layer = config.make(6, seed=0, kernel_init=INIT, name='out')
  params = layer.init(jax.random.key(0), jnp.ones((1, 4)))['params']
  assert params['coefficients'].size == 24


def test_it_selects_what_its_layer_stores() -> None:
  config = LinearConfig('spectral', keep=0.5, selection='random')
  assert config.select((4, 6), seed=3) == Selection('random', (4, 6), 12, 3)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'kind': 'sparse'}, "^kind: expected one of dense, .*, got 'sparse'"),
    ({'selection': 'zigzag'}, "^selection: expected one of .* got 'zigzag'"),
    ({'method': 'fast'}, "^method: expected one of auto, .* got 'fast'"),
    ({'keep': 0}, '^keep: expected a fraction above 0 .*, got 0'),
    ({'keep': 1.5}, '^keep: expected a fraction .*up to 1.0, got 1.5'),
    ({'keep': float('nan')}, '^keep: expected a fraction .*, got nan'),
    ({'rank': 0}, '^rank: expected at least 1, got 0'),
  ],
)
def test_impossible_fields_raise(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    LinearConfig(**fields)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (LinearConfig('low_rank', rank=5), '^rank: expected at most 4 for a 4×6'),
    (
      LinearConfig('spectral', keep=0.25, selection='strided'),
      '^keep: a strided selection .* 4×6 kernel',
    ),
  ],
  ids=['low_rank', 'strided'],
)
def test_shapes_that_cannot_be_stored_raise(
  config: LinearConfig, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    config.check((4, 6))
  config.check((8, 16))


@pytest.mark.parametrize(
  ('basis', 'largest'), [('dct', 32768), ('orthonormal', 4096)]
)
def test_a_basis_has_a_largest_side(basis: str, largest: int) -> None:
  config = LinearConfig(basis=basis, selection='strided')
  config.check((largest, 2))
  with pytest.raises(ValueError, match=f'basis {basis} reach {largest} a side'):
    config.check((largest + 2, 2))


def test_the_definition_has_one_basis() -> None:
  with pytest.raises(ValueError, match=r"^method: 'idctn' has no basis but"):
    LinearConfig(method='idctn', basis='orthonormal')
