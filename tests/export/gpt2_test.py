"""A GPT-2 is written and read back; what is none gets one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spectral_jax.errors import UserError
from spectral_jax.export import gpt2
from spectral_jax.export.loading import load_exported
from spectral_jax.export.trained import Options
from tests.export.models import CHARACTERS, logits, small


def test_it_computes_the_same_when_read_back(tmp_path: Path) -> None:
  trained = small(scan=True, qkv='separate', norm_epsilon=1e-3)
  gpt2.write(trained, tmp_path / 'gpt2', Options())
  back = load_exported(tmp_path / 'gpt2')
  np.testing.assert_allclose(logits(back), logits(trained), atol=2e-5)
  assert back.tokenizer == CHARACTERS
  assert back.model.config.linear.kind == 'dense'
  assert back.recipe['model']['linear']['kind'] == 'dense'
  assert back.recipe['train'] == trained.recipe['train']


def test_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
  out = tmp_path / 'gpt2'
  with pytest.raises(
    UserError, match=r'--dtype: .* float32 or bfloat16, got i'
  ):
    gpt2.write(small(), out, Options('int8'))
  with pytest.raises(UserError, match='low-rank layers are not merged'):
    gpt2.write(small(linear='low_rank'), out, Options())
  assert not out.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  gpt2.write(small(linear='dense'), tmp_path / 'gpt2', Options())
  return tmp_path / 'gpt2'


def tensors_with(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
  path = folder / 'model.safetensors'
  tensors = load_file(path)
  change(tensors)
  save_file(tensors, path)


def test_the_names_of_older_files(folder: Path) -> None:
  expected = load_exported(folder).params

  def older(tensors: dict[str, Any]) -> None:
    tensors.pop('lm_head.weight')
    for name in list(tensors):
      tensors[name.removeprefix('transformer.')] = tensors.pop(name)
    tensors['h.1.attn.bias'] = np.tri(16, dtype=np.uint8)

  before = load_file(folder / 'model.safetensors')
  tensors_with(folder, older)
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  del config['tie_word_embeddings']  # tied by default
  path.write_text(json.dumps(config))
  tied = load_exported(
    folder / 'model.safetensors'
  )  # the file names it as well
  assert tied.tokenizer is None
  embedding = before['transformer.wte.weight']
  np.testing.assert_array_equal(tied.params['head']['kernel'], embedding.T)
  tied.params['head']['kernel'] = before['lm_head.weight'].T
  jax.tree.map(np.testing.assert_array_equal, tied.params, expected)


@pytest.mark.parametrize(
  ('key', 'value', 'expected'),
  [
    ('model_type', 'llama', "model_type: expected 'gpt2', got 'llama'"),
    ('activation_function', 'relu', "expected 'gelu_new' or .*, got 'relu'"),
    ('scale_attn_by_inverse_layer_idx', True, 'expected False, got True'),
    ('n_inner', 17, 'n_inner: expected 64, four times n_embd, got 17'),
    ('n_embd', '16', "n_embd: expected a whole number, got '16'"),
    ('n_head', 3, 'heads: expected a divisor of the width 16, got 3'),
    ('n_embd', 2**20, 'weights cannot be in'),
    ('n_layer', 1000, '1,000 layers cannot be in'),
    ('n_layer', 3, "tensor 'transformer.h.2.ln_1.weight' is missing"),
    ('n_layer', 1, '12 tensors that the model has no use for: transformer.h.1'),
    (
      'vocab_size',
      9,
      r"'transformer.wte.weight': .*\[9, 16\], got .*\[10, 16\]",
    ),
    ('n_positions', 17, r"'transformer.wpe.weight': expected .*\[17, 16\]"),
  ],
)
def test_another_config_gets_one_line(
  key: str, value: object, expected: str, folder: Path
) -> None:
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  with pytest.raises(UserError, match=expected) as caught:
    load_exported(folder)
  assert '\n' not in str(caught.value)


def test_other_tensors_get_one_line(folder: Path) -> None:
  name = 'transformer.h.0.mlp.c_fc.weight'
  tensors_with(folder, lambda t: t.update({name: t[name].T.copy()}))
  with pytest.raises(
    UserError, match=r'c_fc.weight.: .*\[16, 64\], got .*64, 16'
  ):
    load_exported(folder)
  tensors_with(folder, lambda t: t.update({name: np.zeros((16, 64), np.int32)}))
  with pytest.raises(UserError, match=r'expected float32 or .*, got int32'):
    load_exported(folder)
  (folder / 'model.safetensors').unlink()
  with pytest.raises(UserError, match=r'no model\.safetensors in it'):
    load_exported(folder)
