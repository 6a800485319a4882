"""Spectral layers in a linen model whose code stays as it is."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.dense_general import SpectralDenseGeneral
from spectral_jax.layers.find_layers import layer_path
from spectral_jax.layers.rules import Rule, check_all_match, first_match

_SPECTRAL = {nn.Dense: SpectralDense, nn.DenseGeneral: SpectralDenseGeneral}


def _dense_class(layer: nn.Module) -> type[nn.Module] | None:
  """The class a layer can be replaced as; a method of its own forbids it."""
  for dense in _SPECTRAL:
    if isinstance(layer, dense) and type(layer).__call__ is dense.__call__:
      return dense
  return None


# The rules that hold, as a part of jit's cache key: what was compiled under
# others, or none, is compiled anew.
_RULES = jax.make_user_context(None)


@contextlib.contextmanager
def spectralize(rules: Sequence[Rule]) -> Iterator[None]:
  """Stores coefficients in the `Dense` and `DenseGeneral` layers of any model.

  Within it, `init` and `apply` of any linen model run `SpectralDense` or
  `SpectralDenseGeneral` in place of each layer whose path a rule matches: it
  has `coefficients` where the dense layer has `kernel`. That holds inside
  Flax's own layers (`MultiHeadDotProductAttention`) and under `jit`, `scan` and
  `remat` too. Subclasses with a `__call__` of their own are left as they are.
  Of nested contexts the innermost counts alone.

  Args:
    rules: the first that matches a path counts.

  Raises:
    ValueError: on leaving, if layers were initialised and a rule matched none
      of them; for a layer that cannot be stored as its rule says.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model, x = nn.Sequential([nn.Dense(8), nn.Dense(2)]), jnp.ones((1, 4))
    >>> with spectralize([Rule('layers_0', keep=0.25)]):
    ...   params = model.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params['params']['layers_0'])
    {'bias': (8,), 'coefficients': (8,)}
  """
  rules = tuple(rules)
  with _replacing(rules) as initialized:
    yield
  if initialized:
    check_all_match(rules, initialized)


@contextlib.contextmanager
def _replacing(rules: tuple[Rule, ...]) -> Iterator[list[str]]:
  """Replaces layers; tells the paths of those that are initialised."""
  initialized: list[str] = []

  def swap(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    dense = _dense_class(layer)
    innermost = _RULES.value is rules
    if dense is None or context.method_name != '__call__' or not innermost:
      return next_fun(*args, **kwargs)
    path = layer_path(layer)
    if layer.is_initializing():
      initialized.append(path)
    rule = first_match(rules, path)
    if rule is None or rule.keep is None:
      return next_fun(*args, **kwargs)
    fields = {
      field.name: getattr(layer, field.name)
      for field in dataclasses.fields(dense)
      if field.name not in ('parent', 'name')
    }
    # Bound to the dense layer's own scope, it has the same path and name.
    spectral = _SPECTRAL[dense](
      **fields, **rule.arguments(path), parent=layer.scope
    )
    try:
      return spectral(*args, **kwargs)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error

  with _RULES(rules), nn.intercept_methods(swap):
    yield initialized


class Spectralized(nn.Module):
  """A model with some of its layers replaced by spectral ones, by rules.

  It has the methods `init` and `apply` of any module, the parameter tree of the
  model itself (but for `coefficients` in place of `kernel`), and is trained as
  it is. Only `__call__` is passed on; around other methods put `spectralize`.

  Attributes:
    model: any linen module.
    rules: which layers, see `Rule`; the first that matches a path counts.

  Raises:
    ValueError: in `init`, if a rule matches no layer; for a layer that cannot
      be stored as its rule says.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = Spectralized(nn.MultiHeadAttention(4), [Rule('.*', keep=0.25)])
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3, 16)))
    >>> jax.tree.map(jnp.shape, params['params']['query'])
    {'bias': (4, 4), 'coefficients': (64,)}
  """

  model: nn.Module
  rules: Sequence[Rule]

  def __post_init__(self) -> None:
    self.rules = tuple(self.rules)  # a list could not be hashed, as jit wants
    super().__post_init__()

  def setup(self) -> None:
    """Gives the model this module's place, so that no path says `model`."""
    nn.share_scope(self, self.model)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """What the model's `__call__` returns."""
    rules = tuple(self.rules)
    with _replacing(rules) as initialized:
      outputs = self.model(*args, **kwargs)
    if self.is_initializing():
      check_all_match(rules, initialized)
    return outputs
