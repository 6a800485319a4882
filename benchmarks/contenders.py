"""Who takes part: dense layers, and spectral ones as the flags say."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from benchmarks.arguments import check_passed_on, fail
from benchmarks.rows import muon_takes_kernels
from benchmarks.runs import recipe
from spectral_jax.core.plan import plan
from spectral_jax.core.reconstruct import METHODS
from spectral_jax.core.selection import KINDS
from spectral_jax.data.tokenizer import CharTokenizer
from spectral_jax.errors import UserError
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.training import sharding
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import Settings

# As many as Tiny Shakespeare has characters; which ones is no matter.
VOCABULARY = 65
_TOKENIZER = CharTokenizer(''.join(map(chr, range(VOCABULARY))))
_OWN_KEYS = (
  'train.batch_size',
  'optimizer.name',
  'model.linear.kind',
  'model.linear.keep',
  'model.linear.selection',
  'model.linear.method',
)


def parse_selections(texts: Sequence[str]) -> dict[str, LinearConfig]:
  """Spectral layers that keep nm/B, each text being KIND/B, as strided/2.

  Returns:
    The layers by name, as `strided nm/2`.
  """
  found = {}
  for text in texts:
    kind, _, divisor = text.partition('/')
    try:
      config = LinearConfig(selection=kind, keep=1 / float(divisor))
    except (ValueError, ZeroDivisionError):
      fail(
        '--selections: expected KIND/B, which keeps nm/B, as strided/2; KIND '
        f'is one of {", ".join(KINDS)}; got {text!r}.'
      )
    found[f'{kind} nm/{divisor}'] = config
  return found


def parse_methods(
  texts: Sequence[str], allowed: Sequence[str] = METHODS
) -> tuple[str, ...]:
  """The methods of a flag, each once."""
  for text in texts:
    if text not in allowed:
      fail(f'--methods: expected some of {", ".join(allowed)}; got {text!r}.')
  return tuple(dict.fromkeys(texts))


def dense_and_spectral(
  selections: Mapping[str, LinearConfig], methods: Sequence[str]
) -> dict[str, LinearConfig]:
  """Dense layers first, then each selection by each method."""
  return {'dense': LinearConfig('dense')} | {
    f'spectral {name}, {method}': dataclasses.replace(config, method=method)
    for name, config in selections.items()
    for method in methods
  }


def read_settings(batch_size: int, passed_on: Sequence[str]) -> Settings:
  """The paper's recipe with a batch, and flags that come after `--`."""
  check_passed_on(passed_on, _OWN_KEYS, instead='see --help for its own flag.')
  flags = (f'--config.train.batch_size={batch_size}', *passed_on)
  try:
    flat = recipe('dense', flags)
    return Settings.from_mapping(unflatten_dict(flat, sep='.')['config'])
  except UserError as error:
    fail(str(error))


def experiment(
  settings: Settings,
  linear: LinearConfig,
  optimizer: str,
  devices: Sequence[jax.Device] | None = None,
) -> Experiment:
  """What trains a model with such layers, on these devices or on all."""
  try:
    model = dataclasses.replace(settings.model, linear=linear)
  except ValueError as error:
    fail(f'--selections: {error}')
  of_optimizer = dataclasses.replace(settings.optimizer, name=optimizer)
  spectral = linear.kind == 'spectral'
  if optimizer == 'muon' and spectral and muon_takes_kernels(linear.selection):
    of_optimizer = dataclasses.replace(of_optimizer, gradients='kernels')
  settings = dataclasses.replace(settings, model=model, optimizer=of_optimizer)
  train = settings.train
  try:
    mesh = make_mesh(
      settings.mesh,
      train.batch_size // train.accumulate,
      model.heads,
      devices,
    )
  except UserError as error:
    fail(str(error))
  return Experiment(settings, _TOKENIZER, mesh)


def picks(contender: Experiment) -> list[str]:
  """What `auto`, if asked, takes for each kind of layer, and why."""
  settings, mesh = contender.settings, contender.mesh
  model, train = settings.model, settings.train
  if (model.linear.kind, model.linear.method) != ('spectral', 'auto'):
    return []
  if mesh.shape['tensor'] > 1 or train.share_rebuilding:
    return []  # of some layers a device rebuilds a part
  tokens = train.batch_size // train.accumulate * model.context
  dtype = jnp.dtype(model.dtype)
  once = train.accumulate > 1 and train.rebuild_every == 'step'
  if once or settings.takes_kernels:
    tokens = 0  # kernels are rebuilt once for all tokens
  if settings.takes_kernels:
    dtype = jnp.dtype(jnp.float32)  # they are the optimizer's, too
  lines = []
  for n, m in dict.fromkeys(model.kernel_shapes().values()):
    chosen = plan(
      model.linear.select((n, m), 0),
      tokens // (mesh.shape['data'] * mesh.shape['fsdp']),
      dtype=dtype,
      platform=sharding.platform(mesh),
    )
    lines.append(f'{n}×{m}: {chosen.method} ({chosen})')
  return lines
