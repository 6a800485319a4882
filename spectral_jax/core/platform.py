"""The platform that a program is for, be it that of this machine or not."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str] = contextvars.ContextVar('platform')


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
  """Within it what is traced is for a platform, that of this machine or not.

  A jitted function that was traced before stays as it was.

  Args:
    platform: as devices name theirs: cpu, tpu, gpu, cuda or rocm.
  """
  token = _PLATFORM.set(platform)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def has_sound_ffts() -> bool:
  """Whether FFTs can be counted on in the middle of any program.

  Where XLA divides a program among several CPU devices it may lay an array out
  otherwise than its FFTs for CPUs take it, which then fail when they run
  (RET_CHECK in fft_thunk.cc; jaxlib 0.10.1).
  """
  return planned_platform() != 'cpu' or jax.device_count('cpu') == 1


def planned_platform() -> str:
  """What a program is for, as JAX or `planned_for` names it."""
  return _PLATFORM.get(jax.default_backend())
