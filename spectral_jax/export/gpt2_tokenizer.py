"""A tokenizer of ours in the files that Hugging Face's tokenizers read."""

import json
from pathlib import Path
from typing import Any

from spectral_jax.data.tokenizer import (
  ByteTokenizer,
  CharTokenizer,
  Tokenizer,
)
from spectral_jax.data.word_pieces import SentencePieceTokenizer


def write(tokenizer: Tokenizer, folder: Path, context: int) -> None:
  """Writes what `AutoTokenizer.from_pretrained` loads.

  Of pieces of words it is the SentencePiece model alone, tokenizer.model, which
  AutoTokenizer does not know by itself.
  """
  if isinstance(tokenizer, SentencePieceTokenizer):
    (folder / 'tokenizer.model').write_bytes(tokenizer.model)
    return
  described = {
    'tokenizer.json': _described(tokenizer),
    'tokenizer_config.json': {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'model_max_length': context,
      'clean_up_tokenization_spaces': False,
    },
  }
  for name, content in described.items():
    text = json.dumps(content, indent=1) + '\n'
    (folder / name).write_text(text, encoding='utf-8')


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
  """The content of tokenizer.json."""
  parts: dict[str, Any]
  if isinstance(tokenizer, CharTokenizer):
    ids = {char: id_ for id_, char in enumerate(tokenizer.vocabulary)}
    parts = {
      'model': {'type': 'WordLevel', 'vocab': ids, 'unk_token': '<unk>'},
      'pre_tokenizer': {
        'type': 'Split',
        'pattern': {'Regex': r'[\s\S]'},
        'behavior': 'Isolated',
        'invert': False,
      },
      'decoder': {'type': 'Fuse'},
    }
  else:
    assert isinstance(tokenizer, ByteTokenizer)
    ids = {char: byte for byte, char in enumerate(_byte_names())}
    way = {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': False}
    parts = {
      'model': {'type': 'BPE', 'vocab': ids, 'merges': []},
      'pre_tokenizer': way | {'trim_offsets': True},
      'decoder': way | {'trim_offsets': True},
    }
  none = ('truncation', 'padding', 'normalizer', 'post_processor')
  return {'version': '1.0', 'added_tokens': []} | dict.fromkeys(none) | parts


def _byte_names() -> list[str]:
  """The characters that stand for bytes: GPT-2 has a visible one for each."""
  visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
  names, extra = [], 0x100
  for byte in range(0x100):
    names.append(chr(byte if byte in visible else extra))
    extra += byte not in visible
  return names
