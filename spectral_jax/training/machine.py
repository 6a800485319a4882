"""The machine: what it is, how it computes, and whether it holds a model."""

import ctypes
import datetime
import os
import platform

import jax
import jaxlib.version

from spectral_jax.core.compiler_check import compiled_error
from spectral_jax.errors import UserError
from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.untrusted import check_fits

_FLOAT = 4  # bytes
# Of mallopt(3): the size from which the heap's free end is given back, and how
# many blocks may lie outside the heap.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def machine_facts() -> dict[str, str]:
  """The date, the device, and the versions of JAX and Python."""
  device = jax.devices()[0]
  return {
    'date': datetime.date.today().isoformat(),
    'device': f'{device.device_kind}, {os.cpu_count()} CPU cores',
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def keep_memory() -> None:
  """Lets this process keep the memory that a CPU computes in.

  XLA asks for all memory of a program each time it runs. By default glibc gives
  it back each time, and the system clears every page before it is there again,
  which takes a quarter of the default model's step (docs/performance.md). Now
  nothing goes back that comes from the heap; only the main thread has its
  memory from there, and so a CPU's programs run in the thread that calls them.

  To be called before anything asks JAX for devices: later that thread cannot be
  chosen. Malloc stays as it is with several devices, with others than a CPU,
  with other C libraries, and where the environment says how glibc's is to work
  (MALLOC_…, GLIBC_TUNABLES).
  """
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  told = any(v.startswith(('MALLOC_', 'GLIBC_TUNABLES')) for v in os.environ)
  if mallopt is None or told:
    return
  if jax.default_backend() == 'cpu' and jax.device_count() == 1:
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_MMAP_MAX, 0)


def check_compiler() -> None:
  """Raises UserError if this jaxlib computes spectral layers wrong."""
  error = compiled_error()
  if not error < 0.1:
    raise UserError(
      f'jaxlib {jaxlib.version.__version__}: computes spectral layers wrong on '
      f'{jax.default_backend()} (error {error:.1g}); install a sound one: '
      "pip install 'jax!=0.10.2,!=0.11.0,!=0.11.1' "
      "'jaxlib!=0.10.2,!=0.11.0,!=0.11.1'."
    )


def _parameter_bytes(config: TransformerConfig, vocabulary: int) -> int:
  """What the linear layers' and the embedding's parameters take, about."""
  linear = config.linear
  stored = 0.0
  for n, m in config.kernel_shapes().values():
    if linear.kind == 'low_rank':
      stored += linear.rank * (n + m)
    else:
      stored += n * m * (linear.keep if linear.kind == 'spectral' else 1)
  embedded = (2 * vocabulary + config.context) * config.width
  return round(_FLOAT * (config.layers * stored + embedded))


def check_model(
  config: TransformerConfig, vocabulary: int, sequences: int = 1
) -> None:
  """Raises UserError for a model that this machine's memory cannot hold.

  Where devices have memory of their own, they say so themselves. What is
  counted is less than what is needed: the parameters with one moment, and one
  layer's attention.

  Args:
    config: of the model.
    vocabulary: of its tokens.
    sequences: that are computed at once.
  """
  if jax.default_backend() != 'cpu' or jax.process_count() > 1:
    return
  scores = _FLOAT * sequences * config.heads * config.context**2
  for needed, what in (
    (2 * _parameter_bytes(config, vocabulary), 'config.model: its parameters'),
    (scores, 'config.model.context, config.train.batch_size: one attention'),
  ):
    try:
      check_fits(needed, what)
    except ValueError as error:
      raise UserError(f'{error}; take less.') from None
