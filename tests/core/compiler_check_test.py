"""This machine's compiler computes rebuilt kernels right, and we would know."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from spectral_jax.core import compiler_check
from spectral_jax.core.compiler_check import compiled_error
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from tests.trainer import run


def test_this_compiler_is_sound(tmp_path: Path) -> None:
  """With the flags of a user, who has none, and with those of the tests."""
  print_error = (
    'from spectral_jax.core.compiler_check import compiled_error; '
    'print(compiled_error())'
  )
  result = run('-c', print_error, tmp=tmp_path, XLA_FLAGS='')
  for error in (float(result.stdout), compiled_error()):
    assert 0 <= error < 1e-3


def test_a_branch_miscompiled_at_large_batches_is_noticed(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  branch = compiler_check._branch

  def miscompiled(
    x: jax.Array, up: jax.Array, down: jax.Array, way: str
  ) -> jax.Array:
    broken = isinstance(x, jax.core.Tracer) and x.shape[0] >= 32
    return branch(x, up, down, way) + float(broken)

  monkeypatch.setattr(compiler_check, '_branch', miscompiled)
  assert compiled_error((16,)) < 1e-3
  assert compiled_error((16, 32)) == pytest.approx(1.0, abs=1e-3)


# The whole model, compiled and op by op. Where the compiler is broken, it is so
# from 32 sequences of 128 tokens on, with rebuilt kernels alone.
@pytest.mark.parametrize(
  ('linear', 'batch_sizes'),
  [
    (LinearConfig('dense'), (32,)),
    (LinearConfig('low_rank'), (32,)),
    (LinearConfig(selection='strided', method='gemm'), (32, 64)),
    (LinearConfig(selection='strided', method='folded'), (16, 32, 64)),
    (LinearConfig(selection='lowpass', method='idctn'), (32,)),
  ],
  ids=['dense', 'low_rank', 'gemm', 'folded', 'idctn'],
)
def test_the_compiled_model_equals_the_model_op_by_op(
  linear: LinearConfig, batch_sizes: tuple[int, ...]
) -> None:
  config = TransformerConfig(layers=1, linear=linear)
  model = Transformer(65, config)
  rng = np.random.default_rng(0)
  tokens = rng.integers(65, size=(64, 128), dtype=np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  params = jax.tree.map(
    lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  # Both methods compute the same; op by op, idctn takes its time.
  by_gemm = dataclasses.replace(linear, method='gemm')
  with jax.disable_jit():
    expected = Transformer(
      65, dataclasses.replace(config, linear=by_gemm)
    ).apply(params, tokens)
  assert np.std(expected) > 0.1
  for batch_size in batch_sizes:
    logits = jax.jit(model.apply)(params, tokens[:batch_size])
    np.testing.assert_allclose(logits, expected[:batch_size], atol=1e-3)
