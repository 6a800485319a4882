"""Every public name says what it does, and shows it."""

import inspect

import pytest

import spectral_jax
import spectral_jax.nnx

NAMES = [
  getattr(module, name)
  for module in (spectral_jax, spectral_jax.nnx)
  for name in module.__all__
]


@pytest.mark.parametrize('value', NAMES, ids=lambda value: value.__qualname__)
def test_it_is_documented_with_an_example(value: object) -> None:
  documentation = inspect.getdoc(value)
  assert documentation is not None
  assert '>>> ' in documentation
  if callable(value) and list(inspect.signature(value).parameters):
    assert 'Args:' in documentation or 'Attributes:' in documentation
