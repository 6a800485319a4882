"""Dataclasses from plain mappings, and what to say of a key that is wrong."""

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from spectral_jax.errors import UserError

T = TypeVar('T')


def read(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
  """Reads a dataclass, of which others may be fields, from a mapping.

  A key that the mapping lacks has its default, if there is one, so that older
  recipes are still read.

  Raises:
    UserError: names the first key that is unknown, missing, of a wrong type or
      out of range, and says what is expected.
  """
  if not isinstance(mapping, Mapping):
    raise UserError(f'{where}: expected a section of keys, got {mapping!r}.')
  hints = typing.get_type_hints(cls)
  for key in mapping:
    if key not in hints:
      raise UserError(unknown_key(f'{where}.{key}', keys(cls, where)))
  values = {}
  for key, hint in hints.items():
    if key not in mapping:
      if hasattr(cls, key):
        continue
      raise UserError(f'{where}.{key}: missing; the recipe must give it.')
    value = mapping[key]
    if dataclasses.is_dataclass(hint):
      assert isinstance(hint, type)
      values[key] = read(hint, value, f'{where}.{key}')
      continue
    accepted: type | types.UnionType = int | float if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool) != (
      hint is bool
    ):
      raise UserError(
        f'{where}.{key}: expected {describe_type(hint)}, got {value!r}.'
      )
    try:
      values[key] = hint(value)
    except OverflowError:  # a whole number that no float reaches
      raise UserError(
        f'{where}.{key}: expected a number below 1.8e308, got a larger.'
      ) from None
  try:
    return cls(**values)
  except ValueError as error:
    raise UserError(f'{where}.{error}') from None


def describe_type(hint: type) -> str:
  """A type in the words of the command line."""
  names = {
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
    bool: 'true or false',
  }
  return names.get(hint, hint.__name__)


def keys(cls: type, where: str) -> dict[str, str]:
  """Every key of a dataclass, dotted, with its line of documentation."""
  documented = dict(
    re.findall(r'^  (\w+): ((?:.|\n    )+)', inspect.getdoc(cls) or '', re.M)
  )
  found: dict[str, str] = {}
  for key, hint in typing.get_type_hints(cls).items():
    if dataclasses.is_dataclass(hint):
      assert isinstance(hint, type)
      found |= keys(hint, f'{where}.{key}')
    else:
      found[f'{where}.{key}'] = ' '.join(documented[key].split())
  return found


def unknown_key(key: str, known: Mapping[str, str]) -> str:
  """The line that answers a mistyped key: the key and the nearest known."""
  near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
  return f'{key}: no such key; nearest: {", ".join(near or sorted(known))}.'
