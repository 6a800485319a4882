"""XLA's flags with which tests compile; compiling is most of their time."""

import jaxlib.version


def xla_flags(devices: int) -> str:
  """Many CPU devices, and code that is soon compiled and not as fast."""
  flags = (
    f' --xla_force_host_platform_device_count={devices}'
    ' --xla_backend_optimization_level=0'
    ' --xla_cpu_parallel_codegen_split_count=1'
  )
  # What emits loops there takes three times as long as what did so before;
  # later versions have nothing else.
  if jaxlib.version.__version_info__ < (0, 11):
    flags += ' --xla_cpu_use_fusion_emitters=false'
  return flags
