"""A run as the commands see it: recipe, state, and what its layers store."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from spectral_jax.convert.project import to_dense, to_spectral
from spectral_jax.convert.resize import resize
from spectral_jax.errors import UserError
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.stored import layers_of
from spectral_jax.training import loop, workdir
from spectral_jax.training.checkpoint import Checkpoints
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.settings import Settings
from spectral_jax.training.step import TrainState


def define_checkpoint_flag() -> None:
  """Defines --checkpoint."""
  flags.DEFINE_string('checkpoint', 'latest', 'latest, best, or a step.')


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that was trained.

  Attributes:
    recipe: as in its config.json.
    experiment: the recipe, with the model and the devices.
    state: of the checkpoint that was asked for.
  """

  recipe: dict[str, Any]
  experiment: Experiment
  state: TrainState

  @classmethod
  def read(cls, directory: Path) -> 'Run':
    """The run in a workdir, at the step that --checkpoint names.

    Raises:
      UserError: if there is none.
    """
    recipe = workdir.read_recipe(directory)
    settings = Settings.from_mapping(recipe)
    experiment, state = loop.restore(
      settings, directory, flags.FLAGS.checkpoint
    )
    return cls(recipe, experiment, state)

  @property
  def kind(self) -> str:
    """`dense`, `spectral` or `low_rank`."""
    return self.experiment.settings.model.linear.kind

  def layers(self) -> dict[str, SpectralKernel]:
    """What its spectral layers store."""
    return layers_of(self.experiment.model)

  def recipe_with(self, **linear: object) -> dict[str, Any]:
    """The recipe with other values in config.model.linear."""
    recipe = copy.deepcopy(self.recipe)
    recipe['model']['linear'] |= linear
    return recipe

  def experiment_with(self, **linear: object) -> Experiment:
    """The experiment of `recipe_with`.

    Raises:
      UserError: for values that will not do.
    """
    settings = Settings.from_mapping(self.recipe_with(**linear))
    return dataclasses.replace(self.experiment, settings=settings)

  def resize(self, tree: Any, experiment: Experiment) -> Any:
    """Its parameters, or its state, with the K of another experiment.

    Raises:
      UserError: if the one K's positions are not among the other's.
    """
    try:
      return resize(tree, self.layers(), layers_of(experiment.model))
    except ValueError as error:
      raise UserError(f'--keep: {error}') from None

  def params_as(self, experiment: Experiment) -> Any:
    """Its parameters as an experiment's linear layers store them.

    Raises:
      UserError: if the one K's positions are not among the other's.
    """
    params = self.state.params
    if experiment.settings.model.linear.kind == 'dense':
      return to_dense(params, self.layers())
    if self.kind == 'dense':
      return to_spectral(params, layers_of(experiment.model))
    return self.resize(params, experiment)

  def check_convertible(self, directory: Path) -> None:
    """Raises UserError for a low-rank run, or a text that is not the run's."""
    if self.kind == 'low_rank':
      raise UserError(
        f'{directory}: a low-rank run has no coefficients; take a dense or a '
        'spectral one.'
      )
    workdir.check_data(directory, self.experiment.digest())


def save(state: TrainState, directory: Path, loss: float | None) -> None:
  """Saves a state as the checkpoint of a new run; None: it was not scored.

  Raises:
    UserError: if it cannot, for want of room.
  """
  with Checkpoints(directory) as checkpoints:
    if not checkpoints.save(state, loss):
      raise UserError(
        f'OUT: {directory}: not saved; remove it, make room, and begin again.'
      )


def fraction(text: str) -> float:
  """Reads a --keep; whether the kernels can is the recipe's to check.

  Raises:
    UserError: if it is no number.
  """
  try:
    return float(text)
  except ValueError:
    raise UserError(f'--keep: expected a fraction, got {text!r}.') from None


def new_path(argument: str) -> Path:
  """Where OUT is to be.

  Raises:
    UserError: if it is there already, or its folder is not.
  """
  out = Path(argument).expanduser()
  if out.exists():
    raise UserError(f'OUT: {out} is there already; name another.')
  if not out.parent.is_dir():
    raise UserError(f'OUT: {out.parent} is no folder; make it first.')
  return out


def one_argument(arguments: list[str], name: str = 'WORKDIR') -> Path:
  """The only argument of a command.

  Raises:
    UserError: if there is none, or more.
  """
  if len(arguments) != 1:
    raise UserError(f'{name}: expected one, got {len(arguments)}.')
  return Path(arguments[0]).expanduser()
