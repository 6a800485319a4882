"""A recipe, read from a plain mapping into typed, checked settings."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training import reading

# Of the steps: those before any weight is dropped, see `drop_weakest`.
DROP_FROM = 0.1


def _expect(ok: bool, field: str, expected: str, got: object) -> None:
  if not ok:
    raise ValueError(f'{field}: expected {expected}, got {got!r}.')


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """What is read.

  Attributes:
    corpus: shakespeare_plays (bundled), tiny_shakespeare, text (your own), or
      tfds (documents that TFDS prepared).
    path: the text file (tiny_shakespeare), file or folder (text), or TFDS's
      name of the data, such as lm1b or c4/en:3.1.0 (tfds).
    directory: where prepared data lies; by default that of TFDS.
    tokenizer: char, byte, or the file NAME.model of a SentencePiece model.
    evaluation_documents: of tfds, how many of a split are evaluated; 0 for all.
  """

  corpus: str
  path: str
  directory: str
  tokenizer: str
  evaluation_documents: int = 0

  def __post_init__(self) -> None:
    _expect(
      self.evaluation_documents >= 0,
      'evaluation_documents',
      '0 or more',
      self.evaluation_documents,
    )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """How it learns: warm-up, then cosine decay, of AdamW or Muon.

  Attributes:
    name: adamw, or muon (for the matrices of the blocks; AdamW for all else).
    learning_rate: AdamW's peak, for a dense kernel.
    muon_learning_rate: Muon's peak.
    gradients: which it takes: those of coefficients (of which the blocks of
      strided selections are matrices to Muon), or those of rebuilt kernels, as
      if the model were dense, to project what it makes of them; its state is
      then as large as a dense model's. Other layers than spectral ones take
      their own either way.
    warmup_steps: steps from zero to the peak.
    final_fraction: the learning rate at the end, as a fraction of the peak.
    weight_decay: of kernels and coefficients, times the learning rate.
    b1: AdamW's decay of the first moment.
    b2: AdamW's decay of the second moment.
    clip_norm: the largest global norm of a gradient.
    drop_to: how much of what each linear layer of the blocks stores is left at
      the end. The weakest of its numbers are dropped by and by, see
      `drop_weakest`; 1 drops none.
    drop_until: the part of the steps after which no more are dropped.
  """

  name: str
  learning_rate: float
  muon_learning_rate: float
  gradients: str
  warmup_steps: int
  final_fraction: float
  weight_decay: float
  b1: float
  b2: float
  clip_norm: float
  drop_to: float = 1.0
  drop_until: float = 0.9

  def __post_init__(self) -> None:
    choices = ('adamw', 'muon')
    _expect(self.name in choices, 'name', 'adamw or muon', self.name)
    _expect(
      self.gradients in ('coefficients', 'kernels'),
      'gradients',
      'coefficients or kernels',
      self.gradients,
    )
    for field in ('learning_rate', 'muon_learning_rate', 'clip_norm'):
      value = getattr(self, field)
      _expect(0 < value < float('inf'), field, 'a number above 0', value)
    for field in ('warmup_steps', 'weight_decay'):
      value = getattr(self, field)
      _expect(0 <= value < float('inf'), field, '0 or more', value)
    for field in ('b1', 'b2'):
      value = getattr(self, field)
      _expect(0 <= value < 1, field, '0 up to but not 1', value)
    _expect(
      0 <= self.final_fraction <= 1,
      'final_fraction',
      '0 to 1',
      self.final_fraction,
    )
    _expect(
      0 < self.drop_to <= 1, 'drop_to', 'above 0 and up to 1', self.drop_to
    )
    _expect(
      DROP_FROM < self.drop_until <= 1,
      'drop_until',
      f'above {DROP_FROM} and up to 1',
      self.drop_until,
    )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """How long, and in what portions.

  Attributes:
    steps: optimizer steps.
    batch_size: sequences a step.
    accumulate: microbatches that a step's gradient is summed over.
    evaluate_every: steps between evaluations, each followed by a checkpoint.
    log_every: steps between rows of the log.
    rebuild_every: step, or microbatch: when kernels are rebuilt, if there are
      several microbatches. Once a step saves time and what devices send each
      other; each device then keeps all kernels through the step.
    share_rebuilding: whether each device rebuilds a part of every kernel, and
      kernels are gathered and their gradients summed over the devices. Else all
      rebuild all, and only coefficients are.
    on_nonfinite: stop, skip or rollback: what is done at a bad step, one whose
      loss or gradient is not finite. skip leaves the parameters as they were,
      rollback goes back to the last checkpoint, and on with the next batch.
    spike_factor: a step is bad, too, if its loss is more than this times the
      median of the last ten rows of the log; 0 for never.
  """

  steps: int
  batch_size: int
  accumulate: int
  evaluate_every: int
  log_every: int
  rebuild_every: str = 'step'
  share_rebuilding: bool = False
  on_nonfinite: str = 'stop'
  spike_factor: float = 0.0

  def __post_init__(self) -> None:
    for field in (
      'steps',
      'batch_size',
      'accumulate',
      'evaluate_every',
      'log_every',
    ):
      value = getattr(self, field)
      _expect(value >= 1, field, 'at least 1', value)
    _expect(
      self.rebuild_every in ('step', 'microbatch'),
      'rebuild_every',
      'step or microbatch',
      self.rebuild_every,
    )
    _expect(
      self.on_nonfinite in ('stop', 'skip', 'rollback'),
      'on_nonfinite',
      'stop, skip or rollback',
      self.on_nonfinite,
    )
    _expect(
      self.spike_factor == 0 or 1 < self.spike_factor < float('inf'),
      'spike_factor',
      '0, or a number above 1',
      self.spike_factor,
    )
    _expect(
      self.batch_size % self.accumulate == 0,
      'accumulate',
      f'a divisor of the batch size {self.batch_size}',
      self.accumulate,
    )


@dataclasses.dataclass(frozen=True)
class MeshSettings:
  """How many devices share the work; -1, for one of them: all that are left.

  Attributes:
    data: devices that split the batch.
    fsdp: devices that split the batch, and parameters and optimizer state too.
    tensor: devices that split each layer: heads, hidden units and state.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def __post_init__(self) -> None:
    for field, value in vars(self).items():
      _expect(value == -1 or value > 0, field, '-1 or at least 1', value)
    left = [field for field, value in vars(self).items() if value == -1]
    _expect(len(left) < 2, ' and '.join(left), 'one -1', -1)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that decides what a run computes.

  Attributes:
    name: of the recipe; the default workdir is runs/NAME.
    seed: of the initial parameters, the data order and dropout.
    data: what is read.
    model: the architecture.
    optimizer: how it learns.
    train: how long.
    mesh: on how many devices.
  """

  name: str
  seed: int
  data: DataSettings
  model: TransformerConfig
  optimizer: OptimizerSettings
  train: TrainSettings
  mesh: MeshSettings

  def __post_init__(self) -> None:
    _expect(
      re.fullmatch(r'\w[\w.-]*', self.name) is not None,
      'name',
      'letters, digits, ".", "_" and "-"',
      self.name,
    )
    _expect(0 <= self.seed < 2**32, 'seed', '0 to 2³² − 1', self.seed)
    # A part of one kernel for all three would have queries of some heads and
    # values of others.
    _expect(
      self.mesh.tensor == 1 or self.model.qkv == 'separate',
      'mesh.tensor',
      '1, or config.model.qkv=separate',
      self.mesh.tensor,
    )
    _expect(
      not self.drops or self.model.linear.kind != 'low_rank',
      'optimizer.drop_to',
      '1, or config.model.linear.kind=spectral or dense',
      self.optimizer.drop_to,
    )
    if self.takes_kernels:
      # Kernels are rebuilt for the whole step, outside the model.
      for field, only in (
        ('rebuild_every', 'step'),
        ('share_rebuilding', False),
      ):
        value = getattr(self.train, field)
        _expect(
          value == only,
          f'train.{field}',
          f'{only}, or config.optimizer.gradients=coefficients',
          value,
        )

  @property
  def takes_kernels(self) -> bool:
    """Whether the optimizer takes the gradients of rebuilt kernels."""
    spectral = self.model.linear.kind == 'spectral'
    return spectral and self.optimizer.gradients == 'kernels'

  @property
  def drops(self) -> bool:
    """Whether weights are dropped while the model trains."""
    return self.optimizer.drop_to < 1

  @classmethod
  def from_mapping(cls, mapping: Mapping[str, Any]) -> 'Settings':
    """Reads and checks a recipe: nested mappings of plain values.

    Raises:
      UserError: names the first key that is unknown, missing, of a wrong type
        or out of range, and says what is expected.
    """
    return reading.read(cls, mapping, 'config')

  def to_mapping(self) -> dict[str, Any]:
    """The plain nested dictionary that `from_mapping` reads."""
    return dataclasses.asdict(self)


def keys() -> dict[str, str]:
  """Every key of a recipe, dotted, with its line of documentation."""
  return reading.keys(Settings, 'config')
