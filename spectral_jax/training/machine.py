"""What a figure cannot be read without: when and on what it was measured."""

import datetime
import os
import platform

import jax


def machine_facts() -> dict[str, str]:
  """The date, the device, and the versions of JAX and Python."""
  device = jax.devices()[0]
  return {
    'date': datetime.date.today().isoformat(),
    'device': f'{device.device_kind}, {os.cpu_count()} CPU cores',
    'jax': jax.__version__,
    'python': platform.python_version(),
  }
