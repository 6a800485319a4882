"""What training, evaluation and sampling share: data, model, mesh, scores."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from spectral_jax.data import pipeline
from spectral_jax.data.corpora import DOCUMENTS, load_corpus
from spectral_jax.data.corpus import Corpus
from spectral_jax.data.tokenizer import Tokenizer, make_tokenizer
from spectral_jax.models.stored import (
  DENSE,
  abstract_params,
  layers_of,
  with_linear,
)
from spectral_jax.models.transformer import Transformer
from spectral_jax.training import processes, sharding, workdir
from spectral_jax.training.machine import check_compiler, check_model
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.settings import DataSettings, Settings
from spectral_jax.training.step import (
  Batch,
  EvaluationStep,
  TrainState,
  TrainStep,
  make_evaluation_step,
  make_initial_state,
  make_train_step,
)


@functools.lru_cache(maxsize=1)
def _corpus(data: DataSettings) -> Corpus:
  return load_corpus(
    data.corpus,
    path=data.path or None,
    data_dir=data.directory or None,
    evaluation_documents=data.evaluation_documents,
  )


def _mesh(
  settings: Settings, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  train = settings.train
  return make_mesh(
    settings.mesh,
    train.batch_size // train.accumulate,
    settings.model.heads,
    devices,
  )


@dataclasses.dataclass(frozen=True)
class Score:
  """How well a model predicts a text.

  Attributes:
    loss: mean cross-entropy, nats per token.
    bits_per_character: the same in bits, per character of the text.
  """

  loss: float
  bits_per_character: float

  @property
  def perplexity(self) -> float:
    """The exponential of the loss."""
    return math.exp(min(self.loss, 700.0))


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A recipe with its tokenizer, its model and its devices.

  Attributes:
    settings: the recipe.
    tokenizer: of the model's vocabulary.
    mesh: the devices.
  """

  settings: Settings
  tokenizer: Tokenizer
  mesh: Mesh

  @classmethod
  def to_train(cls, settings: Settings) -> 'Experiment':
    """The recipe, once its data is read and will do.

    Raises:
      UserError: for data, devices or a compiler that will not do.
    """
    with processes.together():
      corpus = _corpus(settings.data)
      tokenizer = corpus.make_tokenizer(settings.data.tokenizer)
      experiment = cls(settings, tokenizer, _mesh(settings))
      check_model(
        settings.model,
        tokenizer.vocabulary_size,
        settings.train.batch_size // settings.train.accumulate,
      )
      # These refuse a text that is too short, before anything is trained on it.
      experiment.train_batches(0)
      experiment.evaluation_batches('validation')
      check_compiler()
    return experiment

  def claim(self, directory: Path) -> None:
    """Makes a workdir this recipe's, or checks that it is.

    Raises:
      UserError: for one that will not do.
    """
    digest = self.digest()
    with processes.together():
      if processes.is_first():
        workdir.claim(directory, self.settings, digest, self.tokenizer)
    with processes.together():
      if not processes.is_first():
        workdir.check_shared(directory, self.settings, digest)

  @classmethod
  def trained(cls, settings: Settings, directory: Path) -> 'Experiment':
    """The recipe with the tokenizer of the run in a workdir; reads no data.

    Raises:
      UserError: for devices, a compiler or a workdir that will not do.
    """
    with processes.together():
      check_compiler()
      tokenizer = workdir.read_tokenizer(directory)
      check_model(settings.model, tokenizer.vocabulary_size)
      return cls(settings, tokenizer, _mesh(settings))

  @classmethod
  def to_compile(
    cls, settings: Settings, devices: Sequence[jax.Device]
  ) -> 'Experiment':
    """The recipe on devices that need not be here; only its text is read.

    Raises:
      UserError: for data that will not do, or devices that the mesh does not
        divide.
    """
    name = settings.data.tokenizer
    if settings.data.corpus == DOCUMENTS:  # large, and maybe not here either
      tokenizer = make_tokenizer(name, None)
    else:
      tokenizer = _corpus(settings.data).make_tokenizer(name)
    return cls(settings, tokenizer, _mesh(settings, devices))

  @property
  def corpus(self) -> Corpus:
    """What is trained and evaluated on.

    Raises:
      UserError: for data that will not do.
    """
    return _corpus(self.settings.data)

  def digest(self) -> str:
    """A SHA-256 that another corpus does not have."""
    return self.corpus.digest()

  @functools.cached_property
  def model(self) -> Transformer:
    """The model, without parameters."""
    return Transformer(self.tokenizer.vocabulary_size, self.settings.model)

  def train_batches(self, done: int) -> Iterator[Batch]:
    """The batches of the steps after `done`, on the mesh.

    A process reads the rows that its own devices hold, and no others.

    Raises:
      UserError: if the text is shorter than a context.
    """
    context = self.settings.model.context
    shape = (self.settings.train.batch_size, context)
    where = sharding.by_batch(self.mesh)
    rows, _ = where.shard_shape(shape)

    def part(index: Any) -> int:
      """Which of the parts of a batch, of `rows` each, an index means."""
      return (index[0].start or 0) // rows

    own = map(part, where.addressable_devices_indices_map(shape).values())
    readers = {
      rank: self.corpus.train_batches(
        self.tokenizer,
        pipeline.Reader(
          context, rows, self.settings.seed, rank, shape[0] // rows, done
        ),
      )
      for rank in set(own)
    }

    def read() -> Batch:
      parts = {rank: next(batches) for rank, batches in readers.items()}

      def lay(name: str) -> jax.Array:
        return jax.make_array_from_callback(
          shape, where, lambda index: parts[part(index)][name]
        )

      return {name: lay(name) for name in ('inputs', 'targets')}

    return iter(read, None)

  def evaluation_batches(self, split: str) -> Iterator[Batch]:
    """The batches of what is evaluated of a split, on the mesh.

    Raises:
      UserError: if the text is shorter than two tokens.
    """
    batches = pipeline.evaluation_batches(
      self.corpus.evaluation_tokens(split, self.tokenizer),
      context=self.settings.model.context,
      batch_size=self.settings.train.batch_size,
    )
    return (sharding.put_batch(batch, self.mesh) for batch in batches)

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    """The optimizer of this recipe."""
    settings = self.settings
    return make_optimizer(
      settings.optimizer,
      settings.train.steps,
      abstract_params(self.model),
      layers_of(self.model),
    )

  @functools.cached_property
  def init_state(self) -> Callable[[], TrainState]:
    """Makes the state at step 0, on the mesh."""
    return make_initial_state(
      self.model, self.optimizer, self.mesh, self.settings.seed
    )

  def train_step(self) -> TrainStep:
    """The compiled train step of this recipe."""
    return make_train_step(
      self.model,
      self.optimizer,
      self.mesh,
      seed=self.settings.seed,
      accumulate=self.settings.train.accumulate,
      rebuild_every=self.settings.train.rebuild_every,
      share_rebuilding=self.settings.train.share_rebuilding,
      takes_kernels=self.settings.takes_kernels,
      skip_bad=self.settings.train.on_nonfinite == 'skip',
    )

  @functools.cached_property
  def evaluation_step(self) -> EvaluationStep:
    """The compiled evaluation step."""
    return make_evaluation_step(self.model, self.mesh)

  def score(self, params: Any, split: str) -> Score:
    """Scores parameters on a split, of documents on the first ones.

    Consecutive windows of a context each: every token but the split's first is
    predicted once, from the tokens before it in its window.
    """
    totals = [
      self.evaluation_step(params, batch)
      for batch in self.evaluation_batches(split)
    ]
    losses, weights = np.asarray(jax.device_get(totals), np.float64).T
    nats, tokens = float(losses.sum()), float(weights.sum())
    # The first token is given, not predicted.
    characters = self.corpus.characters(split) * tokens / (tokens + 1)
    return Score(nats / tokens, nats / math.log(2) / characters)

  def parameter_counts(self) -> tuple[int, int]:
    """How many parameters are trained, and how many a dense model has."""
    trained, as_dense = (
      sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model)))
      for model in (self.model, with_linear(self.model, DENSE))
    )
    return trained, as_dense
