"""The platform that a program is for, be it that of this machine or not."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str] = contextvars.ContextVar('platform')


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
  """Within it `auto` plans for a platform, be it that of this machine or not.

  Args:
    platform: as devices name theirs: cpu, tpu, gpu, cuda or rocm.
  """
  token = _PLATFORM.set(platform)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def planned_platform() -> str:
  """That for which `auto` plans, as JAX or `planned_for` names it."""
  return _PLATFORM.get(jax.default_backend())
