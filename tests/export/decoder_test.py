"""A transformer under onnxruntime, and what it takes of a file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from spectral_jax.errors import UserError
from spectral_jax.export import decoder
from spectral_jax.export.trained import Options, Trained
from spectral_jax.layers.linear import LinearConfig
from tests.exported import random_model

_REASON = 'wants requirements-export.txt'
onnx = pytest.importorskip('onnx', reason=_REASON)
onnxruntime = pytest.importorskip('onnxruntime', reason=_REASON)

SMALL = {'context': 16, 'width': 32, 'layers': 2, 'heads': 2}


def session(trained: Trained, path: Path, rebuild: str = 'inside') -> Any:
  decoder.write(trained, path, Options(rebuild=rebuild))
  return onnxruntime.InferenceSession(path)


def no_past(session: Any, batch: int) -> dict[str, np.ndarray]:
  return {
    value.name: np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32)
    for value in session.get_inputs()[1:]
  }


@pytest.mark.parametrize(
  ('config', 'rebuild'),
  [
    ({'linear': LinearConfig(selection='strided')}, 'inside'),
    ({'linear': LinearConfig(basis='orthonormal')}, 'export'),
    ({'qkv': 'separate', 'scan': True}, 'inside'),
    ({'linear': LinearConfig(kind='dense')}, 'inside'),
    ({'linear': LinearConfig(kind='low_rank', rank=4)}, 'inside'),
  ],
)
def test_logits_are_jax_s_in_one_call_and_in_several(
  config: dict[str, Any], rebuild: str, tmp_path: Path
) -> None:
  trained = random_model(**config)
  tokens = np.random.default_rng(0).integers(256, size=(3, 16))
  expected = jax.jit(trained.model.apply)({'params': trained.params}, tokens)
  running = session(trained, tmp_path / 'model.onnx', rebuild)
  if rebuild == 'export':  # every weight
    dense = random_model(linear=LinearConfig(kind='dense'))
    assert (tmp_path / 'model.onnx').stat().st_size > dense.bytes
  past = no_past(running, 3)
  logits, *_ = running.run(None, {'input_ids': tokens} | past)
  np.testing.assert_allclose(logits, expected, atol=2e-5)
  parts = []
  for part in np.split(tokens, [5, 6, 7], axis=1):
    logits, *present = running.run(None, {'input_ids': part} | past)
    past = dict(zip(past, present, strict=True))
    parts.append(logits)
  np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=2e-5)


def test_a_file_is_no_larger_than_what_is_stored(tmp_path: Path) -> None:
  trained = random_model(width=64, layers=1, linear=LinearConfig(keep=0.1))
  written, optimized = tmp_path / 'model.onnx', tmp_path / 'optimized.onnx'
  decoder.write(trained, written, Options())
  assert trained.bytes < written.stat().st_size < trained.bytes + 20_000
  # Kernels are made once, where the model is loaded.
  options = onnxruntime.SessionOptions()
  options.optimized_model_filepath = str(optimized)
  options.log_severity_level = 3  # such a file is for this machine alone
  onnxruntime.InferenceSession(written, options)
  kinds = {node.op_type for node in onnx.load(optimized).graph.node}
  assert 'Softmax' in kinds
  assert not kinds & {'Cos', 'TopK', 'ScatterElements'}


def test_what_cannot_be_written(tmp_path: Path) -> None:
  trained = random_model(linear=LinearConfig(basis='orthonormal'))
  with pytest.raises(UserError, match='--rebuild=inside: not of the basis'):
    decoder.write(trained, tmp_path / 'model.onnx', Options())
  with pytest.raises(UserError, match='--dtype: expected float32, got int8'):
    decoder.write(trained, tmp_path / 'model.onnx', Options('int8'))
  assert not list(tmp_path.iterdir())
