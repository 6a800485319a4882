"""Data sets as TensorFlow Datasets prepares them, of a few documents."""

import contextlib
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tensorflow_datasets as tfds

_WORDS = 'the quick brown fox jumps over a lazy dog and runs away'


def sentences(count: int) -> list[str]:
  """Documents of a dozen words, which a small model learns in a few steps."""
  draw = random.Random(0)
  words = _WORDS.split()
  lengths = [draw.randint(1, 40) for _ in range(count)]
  return [' '.join(draw.choices(words, k=length)) for length in lengths]


def word_pieces(texts: Sequence[str], **options: Any) -> bytes:
  """A SentencePiece model of some texts, as its file holds it."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    vocab_size=320,  # bytes and letters, and a few words
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  return model.getvalue()


def prepare(
  folder: Path,
  name: str,
  splits: Mapping[str, Sequence[str]],
  *,
  config: str | None = None,
  version: str = '1.1.0',
  field: str = 'text',
) -> None:
  """Prepares one of any name in the ArrayRecord format."""

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = (
      [tfds.core.BuilderConfig(name=config)] if config is not None else []
    )
    code_path = None

    def _info(self) -> Any:
      texts = {field: tfds.features.Text(), 'url': tfds.features.Text()}
      features = tfds.features.FeaturesDict(texts)
      info = tfds.core.DatasetInfo(builder=self, features=features)
      info.initialize_from_bucket = lambda: None
      return info

    def _split_generators(self, dl_manager: Any) -> Any:
      return {
        split: self._generate_examples(texts) for split, texts in splits.items()
      }

    def _generate_examples(self, texts: Sequence[str]) -> Any:
      for number, text in enumerate(texts):
        yield number, {field: text, 'url': f'page {number}'}

  Builder.name = name
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    builder = Builder(data_dir=folder, file_format='array_record')
    builder.download_and_prepare(download_dir=folder / 'downloads')
