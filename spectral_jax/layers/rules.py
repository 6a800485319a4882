"""Rules that say which layers of somebody's model store coefficients."""

import dataclasses
import re
import zlib
from collections.abc import Iterable
from typing import Any

from spectral_jax.core.basis import BASES
from spectral_jax.core.reconstruct import METHODS, check_basis
from spectral_jax.core.selection import KINDS, Selection


@dataclasses.dataclass(frozen=True)
class Rule:
  """How the layers are stored whose path matches.

  Of several rules the first that matches a path counts; layers that none
  matches stay dense.

  Attributes:
    path: a regular expression that must match the whole of a layer's path, as
      `encoder/block_0/attention/query`.
    keep: the fraction of N·M coefficients to store (float, 0 < keep ≤ 1), or K
      (int); None: the layer stays dense.
    selection: which coefficients, see `Selection`.
    seed: draws the positions, together with the path: each layer has its own
      seed, but the layers of a scanned stack share a path.
    method: how the kernel is rebuilt, if it is, see `SpectralDense`.
    basis: `dct`, or `orthonormal`, a random rotation for experiments.
    shape: (N, M) of the matrix that a kernel of more than two axes flattens to.
      Only for `match_layers`, which has no model to ask.

  Raises:
    ValueError: names the field, what was expected, and what was got.

  Example:
    >>> rules = [Rule('head', keep=None), Rule('.*', keep=0.25)]
    >>> first_match(rules, 'head').keep, first_match(rules, 'mlp/up').keep
    (None, 0.25)
  """

  path: str
  keep: float | None = 0.5
  selection: str = 'random'
  seed: int = 0
  method: str = 'auto'
  basis: str = 'dct'
  shape: tuple[int, int] | None = None

  def __post_init__(self) -> None:
    try:
      re.compile(self.path)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
      raise ValueError(
        f'path: {self.path!r} is no regular expression ({error}).'
      ) from None
    for field, choices in (
      ('selection', KINDS),
      ('method', METHODS),
      ('basis', BASES),
    ):
      if getattr(self, field) not in choices:
        raise ValueError(
          f'{field}: expected one of {", ".join(choices)}, got '
          f'{getattr(self, field)!r}.'
        )
    if self.keep is not None:
      # A fraction is checked here, a count against each layer's kernel.
      Selection.of('random', (2**15, 2**15), self.keep)
    check_basis(self.method, self.basis)
    if self.shape is not None:
      sizes = tuple(self.shape)  # a list could not be hashed
      if len(sizes) != 2 or not all(
        isinstance(s, int) and s > 0 for s in sizes
      ):
        raise ValueError(f'shape: expected (N, M), got {self.shape}.')
      object.__setattr__(self, 'shape', sizes)
    if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
      raise ValueError(f'seed: expected 0 to 2³² − 1, got {self.seed!r}.')

  def matches(self, path: str) -> bool:
    """Whether the rule is for the layer at this path."""
    return re.fullmatch(self.path, path) is not None

  def arguments(self, path: str) -> dict[str, Any]:
    """What a spectral layer at this path takes besides a dense one's."""
    return {
      'keep': self.keep,
      'selection': self.selection,
      'seed': zlib.crc32(path.encode(), self.seed),
      'method': self.method,
      'basis': self.basis,
    }

  def select(self, path: str, shape: tuple[int, int]) -> Selection:
    """The positions that a layer of this kernel shape [N, M] stores.

    Raises:
      ValueError: if it cannot; names the path.
    """
    assert self.keep is not None
    seed = self.arguments(path)['seed']
    try:
      return Selection.of(self.selection, shape, self.keep, seed)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None


def first_match(rules: Iterable[Rule], path: str) -> Rule | None:
  """The rule that counts for a path, if any."""
  return next((rule for rule in rules if rule.matches(path)), None)


def check_all_match(rules: Iterable[Rule], paths: Iterable[str]) -> None:
  """Raises ValueError for a rule that is the first to match at no path."""
  rules, paths = tuple(rules), tuple(dict.fromkeys(paths))
  used = {first_match(rules, path) for path in paths}
  for rule in rules:
    if rule not in used:
      by = (
        'no layer'
        if not any(map(rule.matches, paths))
        else ('no layer that an earlier rule has not taken')
      )
      raise ValueError(
        f'rules: {rule.path!r} matches {by}; there are '
        f'{", ".join(paths) or "none"}.'
      )
