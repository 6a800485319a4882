"""Corpora of documents: splits, batches, evaluation, and every refusal."""

import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from spectral_jax.data import packing
from spectral_jax.data.corpora import load_corpus
from spectral_jax.data.documents import DocumentCorpus
from spectral_jax.data.pipeline import Reader
from spectral_jax.errors import UserError
from tests.prepared import prepare
from tests.trainer import run

TRAIN = [f'document {i}' + ' more' * (i % 9) for i in range(120)]
HELD_OUT = [f'héld out {i}' for i in range(11)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  folder = tmp_path_factory.mktemp('prepared')
  prepare(folder, 'lm1b', {'train': TRAIN, 'test': HELD_OUT})
  prepare(
    folder,
    'c4',
    {'train': TRAIN[:50], 'validation': HELD_OUT},
    config='en',
    version='3.1.0',
  )
  three = {'train': TRAIN, 'validation': HELD_OUT[:3], 'test': HELD_OUT[3:]}
  prepare(folder, 'three', three)
  return folder


def _open(folder: Path, name: str, evaluated: int = 0) -> DocumentCorpus:
  corpus = load_corpus(
    'tfds', path=name, data_dir=str(folder), evaluation_documents=evaluated
  )
  assert isinstance(corpus, DocumentCorpus)
  return corpus


def _refusal(folder: Path, name: str | None) -> str:
  with pytest.raises(UserError) as caught:
    load_corpus('tfds', path=name, data_dir=str(folder))
  assert '\n' not in str(caught.value)
  return str(caught.value)


def _evaluated(corpus: DocumentCorpus, split: str) -> list[str]:
  tokenizer = corpus.make_tokenizer('byte')
  tokens = corpus.evaluation_tokens(split, tokenizer)
  assert tokens.dtype == np.int32
  text = tokenizer.decode(tokens)
  assert text[0] == text[-1] == '\n'
  return text[1:-1].split('\n')


@pytest.mark.parametrize(
  ('name', 'full', 'sizes'),
  [
    ('lm1b', 'lm1b/1.1.0', (120, 6, 5)),
    ('lm1b:1.1.0', 'lm1b/1.1.0', (120, 6, 5)),
    ('c4', 'c4/en/3.1.0', (50, 6, 5)),
    ('c4/en:3.1.0', 'c4/en/3.1.0', (50, 6, 5)),
    ('three', 'three/1.1.0', (120, 3, 8)),
  ],
)
def test_splits(
  folder: Path, name: str, full: str, sizes: tuple[int, int, int]
) -> None:
  corpus = _open(folder, name)
  assert corpus.describe() == (
    f'{full}: {sizes[0]} documents to train on, {sizes[1]} to validate, '
    f'{sizes[2]} to test'
  )
  texts = {
    split: [documents[i] for i in range(len(documents))]
    for split, documents in corpus.splits.items()
  }
  assert sorted(texts['train']) == sorted(TRAIN[: sizes[0]])
  assert sorted(texts['validation'] + texts['test']) == sorted(HELD_OUT)
  for split in ('validation', 'test'):
    assert _evaluated(corpus, split) == texts[split]
    assert corpus.characters(split) == sum(map(len, texts[split]))


def test_the_first_documents_are_evaluated(folder: Path) -> None:
  whole = _open(folder, 'lm1b')
  corpus = _open(folder, 'lm1b', evaluated=2)
  assert '120 documents to train on, 2 to validate, 2 to' in corpus.describe()
  for split in ('validation', 'test'):
    assert _evaluated(corpus, split) == _evaluated(whole, split)[:2]
    assert corpus.characters(split) == len(''.join(_evaluated(corpus, split)))
  assert _open(folder, 'lm1b', evaluated=99).describe() == whole.describe()


def _drawn(corpus: DocumentCorpus, rows: int, seed: int = 0) -> list[str]:
  """The documents in the first rows."""
  tokenizer = corpus.make_tokenizer('byte')
  batches = corpus.train_batches(
    tokenizer, Reader(context=64, batch_size=1, seed=seed)
  )
  inputs = [batch['inputs'][0] for batch in itertools.islice(batches, rows)]
  return tokenizer.decode(np.concatenate(inputs)).split('\n')[1:-1]


def test_every_document_once_an_epoch_and_epochs_differ(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(packing, 'DOCUMENTS', 1000)  # two epochs are a stretch
  documents = _drawn(_open(folder, 'lm1b'), 200)
  epochs = [documents[start : start + 120] for start in (0, 120)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(TRAIN)
    assert epoch != TRAIN
  assert epochs[0] != epochs[1]


def test_the_seed_decides_the_order(folder: Path) -> None:
  corpus = _open(folder, 'lm1b')
  assert _drawn(corpus, 9) == _drawn(corpus, 9)
  assert _drawn(corpus, 9) != _drawn(corpus, 9, seed=1)


def test_processes_share_a_batch(folder: Path) -> None:
  corpus = _open(folder, 'lm1b')
  tokenizer = corpus.make_tokenizer('byte')

  def batch(rows: int, **process: int) -> np.ndarray:
    batches = corpus.train_batches(
      tokenizer,
      Reader(context=64, batch_size=rows, seed=0, first_batch=5, **process),
    )
    return next(batches)['inputs']

  ranks = [batch(2, rank=rank, world=3) for rank in range(3)]
  together = np.concatenate(ranks)
  np.testing.assert_array_equal(together, batch(6))


def test_a_digest_tells_data_sets_apart(folder: Path, tmp_path: Path) -> None:
  digest = _open(folder, 'lm1b').digest()
  assert _open(folder, 'lm1b:1.1.0', evaluated=3).digest() == digest
  others = [_open(folder, 'c4').digest(), _open(folder, 'three').digest()]
  for changes in (
    {'splits': {'train': TRAIN[:-1], 'test': HELD_OUT}},
    {
      'splits': {
        'train': TRAIN,
        'test': [*HELD_OUT[:-1], 'a text that is longer'],
      }
    },
    {'splits': {'train': TRAIN, 'test': HELD_OUT}, 'version': '1.1.1'},
  ):
    other = tmp_path / str(len(others))
    prepare(other, 'lm1b', **changes)
    others.append(_open(other, 'lm1b').digest())
  assert len({digest, *others}) == 1 + len(others)


def test_names_refused(folder: Path) -> None:
  assert '--config.data.path=NAME' in _refusal(folder, None)
  for name in ('Lm 1b', 'c4/en/3.1.0', '../c4', 'c4:3.1.0:2', str(folder)):
    assert 'NAME/CONFIG:VERSION' in _refusal(folder, name)
  for name in ('lm1c', 'lm1b:2.0.0', 'c4/fr', 'lm1b/en'):
    message = _refusal(folder, name)
    assert f'tfds build {name} --file_format=array_record' in message
    assert f'not prepared in {folder}' in message
    assert '--config.data.directory=FOLDER' in message


def test_data_sets_refused(folder: Path, tmp_path: Path) -> None:
  prepare(tmp_path, 'reviews', {'train': TRAIN, 'test': TRAIN}, field='review')
  assert 'has no text, but review, url' in _refusal(tmp_path, 'reviews')
  prepare(tmp_path, 'wiki', {'train': TRAIN})
  assert 'splits train: expected' in _refusal(tmp_path, 'wiki')
  prepare(tmp_path, 'lm1b', {'train': TRAIN, 'test': HELD_OUT})
  prepare(tmp_path, 'one', {'train': TRAIN, 'test': ['alone']})
  assert 'no documents in test[' in _refusal(tmp_path, 'one')
  info = tmp_path / 'lm1b' / '1.1.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  assert 'tfrecord, which has no random access' in _refusal(tmp_path, 'lm1b')


@pytest.mark.parametrize('kept', [None, 0, 40])
@pytest.mark.parametrize('damaged', ['dataset_info.json', 'lm1b-train.*'])
def test_damage_refused(tmp_path: Path, damaged: str, kept: int | None) -> None:
  prepare(tmp_path, 'lm1b', {'train': TRAIN, 'test': HELD_OUT})
  (file,) = tmp_path.rglob(damaged)
  data = file.read_bytes()
  file.unlink()
  if kept is not None:
    file.write_bytes(data[:kept])
  with pytest.raises(UserError, match=r'lm1b.* prepare (the data|it)'):
    _drawn(_open(tmp_path, 'lm1b'), 1)


@pytest.mark.parametrize('key', ['pythonClassName', 'type'])
def test_a_class_of_somebodys_is_not_imported(key: str, tmp_path: Path) -> None:
  prepare(tmp_path, 'theirs', {'train': TRAIN, 'test': HELD_OUT})
  (path,) = tmp_path.rglob('features.json')
  features = json.loads(path.read_text())
  features['featuresDict']['features']['text'] |= {key: 'antigravity.Text'}
  path.write_text(json.dumps(features))
  message = _refusal(tmp_path, 'theirs')
  assert f"{path} names the class 'antigravity.Text', whose module" in message
  assert 'antigravity' not in sys.modules


def test_characters_of_documents_refused(folder: Path) -> None:
  with pytest.raises(UserError, match='char would have to read all documents'):
    _open(folder, 'lm1b').make_tokenizer('char')


def test_tensorflow_stays_out(folder: Path) -> None:
  script = (
    'import sys; from spectral_jax.data.corpora import load_corpus; '
    'from spectral_jax.data.pipeline import Reader; '
    f'corpus = load_corpus("tfds", path="lm1b", data_dir={str(folder)!r}); '
    'tokenizer = corpus.make_tokenizer("byte"); '
    'batches = corpus.train_batches(tokenizer, Reader(8, 2, seed=0)); '
    'print(next(batches)["inputs"].shape, "tensorflow" in sys.modules)'
  )
  done = run('-W', 'error', '-c', script, tmp=folder)
  assert (done.stdout, done.stderr) == ('(2, 8) False\n', '')


def test_the_document_that_a_stretch_begins_with_is_named(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(packing, 'DOCUMENTS', 4)
  corpus = _open(folder, 'three')
  tokenizer = corpus.make_tokenizer('byte')
  beginnings = 0
  for number in range(8):
    reader = Reader(16, 3, seed=5, first_batch=number)
    batch = next(corpus.train_batches(tokenizer, reader))
    located = corpus.locate(tokenizer, reader)
    for row, place in zip(batch['inputs'], located, strict=True):
      found = re.fullmatch(r'document (\d+), row (\d+)', place)
      assert found is not None
      if int(found[2]) == 0:
        text = corpus.splits['train'][int(found[1])]
        document = tokenizer.encode(text)[:15]
        assert row[0] == tokenizer.separator
        np.testing.assert_array_equal(row[1 : 1 + len(document)], document)
        beginnings += 1
  assert beginnings > 1
