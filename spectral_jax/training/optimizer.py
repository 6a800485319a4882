"""AdamW or Muon from Optax, with rules that say what each parameter gets."""

import math
import re

import jax
import optax

from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training.settings import OptimizerSettings

# The first rule whose pattern matches a parameter's path says whether weight
# decay pulls on it, and whether Muon may take it where it is a stack of
# matrices. Coefficients decay as kernels do.
_RULES = (
  (r'block_\d+/\w+/(kernel|coefficients|down|up)', True, True),
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


def _update_scale(name: str, config: TransformerConfig) -> float:
  """The factor on the learning rate of a layer's coefficients."""
  if not name.endswith('/coefficients'):
    return 1.0
  layer = name.split('/')[-2]
  shape = config.kernel_shapes()[layer]
  return config.linear.select(shape, seed=0).update_scale


def _scale_each(factors: optax.Params) -> optax.GradientTransformation:
  """Multiplies each leaf of the updates by its own factor."""
  return optax.stateless(
    lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)
  )


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
  config: TransformerConfig,
) -> optax.GradientTransformation:
  """The optimizer of a transformer's parameters (arrays or their shapes).

  Raises:
    ValueError: if a parameter is covered by no rule.
  """

  def over_paths(rule: object) -> optax.Params:
    assert callable(rule)
    return jax.tree_util.tree_map_with_path(
      lambda path, x: rule(path_name(path), x), params
    )

  def label(name: str, x: jax.Array) -> str:
    muon = settings.name == 'muon' and _rule(name)[1] and x.ndim >= 2
    return 'muon' if muon else 'adam'

  def peak(name: str, x: jax.Array) -> float:
    if label(name, x) == 'adam':
      return settings.learning_rate
    return settings.muon_learning_rate

  def direction_scale(name: str, x: jax.Array) -> float:
    # Adam's direction has one size per entry; Muon's, one spectral norm, which
    # is that of the rebuilt kernel too, and grows with the width of the output.
    if label(name, x) == 'adam':
      return _update_scale(name, config)
    return math.sqrt(max(1.0, x.shape[-1] / x.shape[-2]))

  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm),
    optax.partition(
      {
        'adam': optax.scale_by_adam(settings.b1, settings.b2),
        'muon': optax.contrib.scale_by_muon(weight_dimension_numbers=_matrices),
      },
      over_paths(label),
    ),
    _scale_each(over_paths(direction_scale)),
    optax.add_decayed_weights(
      settings.weight_decay, over_paths(lambda name, _: _rule(name)[0])
    ),
    _scale_each(over_paths(peak)),
    optax.scale_by_learning_rate(learning_rate_schedule(settings, steps)),
  )
