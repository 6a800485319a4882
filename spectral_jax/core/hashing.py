"""A fixed hash, which draws what a checkpoint must find again."""

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer on uint64: the same on every machine, for ever.

  NumPy does not promise that its generators keep their streams.
  """
  z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))
