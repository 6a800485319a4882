"""Programs of StableHLO, in JAX that knows nothing of Flax or of us."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import export

from spectral_jax.export import programs
from spectral_jax.export.trained import Options
from spectral_jax.layers.linear import LinearConfig
from tests.exported import random_model

pytest.importorskip('flatbuffers', reason='wants requirements-export.txt')


@pytest.mark.parametrize(
  ('config', 'rebuild'),
  [
    ({'linear': LinearConfig(keep=0.3), 'scan': True}, 'inside'),
    ({'linear': LinearConfig(kind='low_rank', rank=4)}, 'export'),
  ],
)
def test_logits_are_the_model_s(
  config: dict[str, Any], rebuild: str, tmp_path: Path
) -> None:
  trained = random_model(**config)
  programs.write(trained, tmp_path / 'out', Options(rebuild=rebuild))
  weights, forward = (
    export.deserialize((tmp_path / 'out' / name).read_bytes())
    for name in ('weights.bin', 'forward.bin')
  )
  assert weights.platforms == forward.platforms == ('cpu', 'cuda', 'tpu')
  params = weights.call()
  for batch in (1, 3):
    tokens = np.random.default_rng(0).integers(256, size=(batch, 16))
    tokens = tokens.astype(np.int32)
    np.testing.assert_allclose(
      forward.call(params, tokens),
      jax.jit(trained.model.apply)({'params': trained.params}, tokens),
      atol=2e-5,
    )
