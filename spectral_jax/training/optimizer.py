"""AdamW or Muon from Optax, with rules that say what each parameter gets."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from spectral_jax.convert.project import to_dense
from spectral_jax.core.selection import Selection
from spectral_jax.layers.spectral_kernel import SpectralKernel
from spectral_jax.models.transformer import SCANNED
from spectral_jax.training.dropping import (
  drop_weakest,
  kept_schedule,
  lengthen_kept,
)
from spectral_jax.training.kernels import on_kernels
from spectral_jax.training.scaling import scale_by_selection
from spectral_jax.training.settings import DROP_FROM, OptimizerSettings

# The first rule whose pattern matches a parameter's path says whether weight
# decay pulls on it, and whether Muon may take it where it is a stack of
# matrices. Coefficients decay as kernels do.
_RULES = (
  (r'block(_\d+|s)/\w+/(kernel|coefficients|down|up)', True, True),
  (r'head/kernel', True, False),
  (r'embed/embedding|positions', False, False),
  (r'(.*/)?(bias|scale)', False, False),
)


def path_name(path: tuple[object, ...]) -> str:
  """A parameter's path as `block_0/qkv/coefficients`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _rule(name: str) -> tuple[bool, bool]:
  for pattern, decays, takes_muon in _RULES:
    if re.fullmatch(pattern, name):
      return decays, takes_muon
  raise ValueError(
    f'params: no optimizer rule matches {name!r}; add one to _RULES.'
  )


def where_dropped(params: optax.Params) -> dict[str, np.ndarray]:
  """Of each layer that may drop weights, by path, which of them are zero.

  Args:
    params: a transformer's parameters, on this host.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {
    name: np.asarray(leaf) == 0
    for name, leaf in ((path_name(path), leaf) for path, leaf in leaves)
    if _may_drop(name)
  }


def _may_drop(name: str) -> bool:
  """Whether a parameter's weakest numbers may be dropped."""
  return name.endswith(('/coefficients', '/kernel')) and _rule(name)[1]


def _over_paths(rule: Callable[[str, Any], Any], tree: optax.Params) -> Any:
  """A tree of what a rule says of each leaf's name and the leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: rule(path_name(path), x), tree
  )


def _scale_each(factors: optax.Params) -> optax.GradientTransformation:
  """Multiplies each leaf of the updates by its own factor."""
  return optax.stateless(
    lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)
  )


def _scale_by_shape() -> optax.GradientTransformation:
  """Multiplies matrices [N, M] by √(M/N) where that is above 1.

  Muon's direction has one spectral norm, which is that of the rebuilt kernel
  too; the outputs' size grows with it and with their number.
  """

  def scale(x: jax.Array) -> jax.Array:
    return x * math.sqrt(max(1.0, x.shape[-1] / x.shape[-2]))

  return optax.stateless(lambda updates, _: jax.tree.map(scale, updates))


def _matrices(params: optax.Params) -> optax.Params:
  """The last two axes of each leaf are a matrix; those before them, a stack."""
  return jax.tree.map(
    lambda x: optax.contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params
  )


def learning_rate_schedule(
  settings: OptimizerSettings, steps: int
) -> optax.Schedule:
  """Linear warm-up to 1, then cosine decay to `final_fraction`.

  A run that is shorter than two warm-ups warms up for half of its steps.
  """
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=1.0,
    warmup_steps=min(settings.warmup_steps, steps // 2),
    decay_steps=steps,
    end_value=settings.final_fraction,
  )


def make_optimizer(
  settings: OptimizerSettings,
  steps: int,
  params: optax.Params,
  layers: Mapping[str, SpectralKernel],
) -> optax.GradientTransformation:
  """The optimizer of a transformer.

  Args:
    settings: which, and of which gradients, see `on_kernels`.
    steps: that the schedule is for.
    params: the transformer's parameters, or their shapes.
    layers: what its spectral layers store, by path.

  Raises:
    ValueError: if a parameter is covered by no rule.
  """
  takes_kernels = settings.gradients == 'kernels'
  selections = {
    f'{path}/coefficients': layer.selection for path, layer in layers.items()
  }

  def is_flat(name: str, x: jax.Array) -> bool:
    """Whether a layer's coefficients, maybe in a stack, are a vector."""
    return x.ndim - name.startswith(SCANNED) == 1

  def label(name: str, x: jax.Array) -> str:
    matrix = takes_kernels or not is_flat(name, x)
    muon = settings.name == 'muon' and _rule(name)[1] and matrix
    return 'muon' if muon else 'adam'

  def peak(name: str, x: jax.Array) -> float:
    if label(name, x) == 'muon':
      return settings.muon_learning_rate
    return settings.learning_rate

  def of_adam(name: str, x: jax.Array) -> Selection | None:
    return selections.get(name) if label(name, x) == 'adam' else None

  def projected(name: str, x: jax.Array) -> float:
    """How much longer the projection of an update must be."""
    selection = selections.get(name)
    if selection is None:
      return 1.0
    if label(name, x) == 'adam':
      return selection.update_scale
    # About K/(N·M) of its square is left, and given back.
    return selection.fraction**-0.5

  # What directions are found for: with kernels there are no coefficients.
  seen = params
  if takes_kernels:
    seen = jax.eval_shape(lambda params: to_dense(params, layers), params)
  transforms = [
    optax.clip_by_global_norm(settings.clip_norm),
    optax.partition(
      {
        'adam': optax.chain(
          optax.scale_by_adam(settings.b1, settings.b2),
          scale_by_selection(_over_paths(of_adam, seen)),
        ),
        'muon': optax.chain(
          optax.contrib.scale_by_muon(weight_dimension_numbers=_matrices),
          _scale_by_shape(),
        ),
      },
      _over_paths(label, seen),
    ),
  ]
  if takes_kernels:
    transforms = [
      on_kernels(optax.chain(*transforms), layers),
      _scale_each(_over_paths(projected, params)),
    ]
  kept = kept_schedule(
    steps, begin=DROP_FROM, end=settings.drop_until, keep=settings.drop_to
  )

  def power(name: str, x: jax.Array) -> float:
    """Of one over what is left of a layer: how long its updates are."""
    if not _may_drop(name):
      return 0.0
    return 0.5 if label(name, x) == 'muon' else 1.0

  def stack(name: str, _: jax.Array) -> int | None:
    return int(name.startswith(SCANNED)) if _may_drop(name) else None

  drops = settings.drop_to < 1
  if drops:
    transforms.append(lengthen_kept(kept, _over_paths(power, params)))
  transforms += [
    optax.add_decayed_weights(
      settings.weight_decay, _over_paths(lambda name, _: _rule(name)[0], params)
    ),
    _scale_each(_over_paths(peak, params)),
    optax.scale_by_learning_rate(learning_rate_schedule(settings, steps)),
  ]
  if drops:
    transforms.append(drop_weakest(kept, _over_paths(stack, params)))
  return optax.chain(*transforms)
