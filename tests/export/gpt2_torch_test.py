"""Hugging Face's GPT-2 computes what the model that was exported computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_jax.data.tokenizer import ByteTokenizer, CharTokenizer
from spectral_jax.export import gpt2
from spectral_jax.export.loading import load_exported
from spectral_jax.export.trained import Options
from tests.export.models import CHARACTERS, TOKENS_2x7, logits, small

HOW = 'wants PyTorch and transformers: pip install -r requirements-export.txt'
torch = pytest.importorskip('torch', reason=HOW)
transformers = pytest.importorskip('transformers', reason=HOW)


def torch_logits(model: Any) -> np.ndarray:
  with torch.no_grad():
    return model.eval()(torch.tensor(TOKENS_2x7)).logits.numpy()


@pytest.mark.parametrize(
  'model', [{}, {'scan': True}, {'qkv': 'separate', 'norm_epsilon': 1e-2}]
)
def test_its_logits_are_ours(model: dict[str, Any], tmp_path: Path) -> None:
  trained = small(**model)
  gpt2.write(trained, tmp_path / 'gpt2', Options())
  theirs, told = transformers.GPT2LMHeadModel.from_pretrained(
    tmp_path / 'gpt2', output_loading_info=True
  )
  assert not any(told.values()), told  # nothing missing, nothing left over
  expected = logits(trained)
  assert np.abs(expected).max() > 0.5
  np.testing.assert_allclose(torch_logits(theirs), expected, atol=5e-5)


@pytest.mark.parametrize('tied', [True, False])
def test_ours_are_its(tied: bool, tmp_path: Path) -> None:
  torch.manual_seed(0)
  config = transformers.GPT2Config(
    vocab_size=10,
    n_positions=16,
    n_embd=16,
    n_layer=2,
    n_head=2,
    initializer_range=0.5,
    tie_word_embeddings=tied,
    bos_token_id=None,
    eos_token_id=None,
  )
  theirs = transformers.GPT2LMHeadModel(config)
  theirs.save_pretrained(tmp_path)
  ours = load_exported(tmp_path)
  assert ours.model.config.norm_epsilon == 1e-5
  np.testing.assert_allclose(logits(ours), torch_logits(theirs), atol=5e-5)


@pytest.mark.parametrize('tokenizer', [CHARACTERS, ByteTokenizer()])
def test_its_tokenizer_is_ours(
  tokenizer: CharTokenizer | ByteTokenizer, tmp_path: Path
) -> None:
  gpt2.write(small(tokenizer, linear='dense'), tmp_path / 'gpt2', Options())
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'gpt2')
  text = ' bad  cé🎭\n!'
  ids = theirs(text)['input_ids']
  assert ids == tokenizer.encode(text).tolist()
  assert theirs.decode(ids) == text
  assert len(theirs) == tokenizer.vocabulary_size
