"""What processes_test.py has each of two processes do: INDEX TEXT OUT."""

import json
import sys
from pathlib import Path

import numpy as np

from configs import base
from spectral_jax.data.tokenizer import make_tokenizer
from spectral_jax.errors import UserError
from spectral_jax.training import processes
from spectral_jax.training.experiment import Experiment
from spectral_jax.training.joining import Group
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.settings import MeshSettings, Settings


def starts(index: str, text: str, out: str) -> list[int]:
  """Where the windows begin that this process reads in an epoch."""
  config = base.get_config()
  config.data.corpus = 'text'
  config.data.path = text
  config.data.directory = str(Path(out) / index)
  config.model.context = 8
  config.train.batch_size = 4
  settings = Settings.from_mapping(config.to_dict())
  mesh = make_mesh(settings.mesh, 4)
  alphabet = Path(text).read_text()
  experiment = Experiment(settings, make_tokenizer('char', alphabet), mesh)
  batches = experiment.train_batches(0)
  windows = len(experiment.corpus.train) - 8
  rows = [
    np.asarray(shard.data)[:, 0]
    for _ in range(windows // 4)
    for shard in next(batches)['inputs'].addressable_shards
  ]
  return [int(start) for start in np.concatenate(rows)]


def line_of(index: str, error: str | None) -> str:
  """What this process is told where process 1 has an error."""
  try:
    with processes.together():
      if error and index == '1':
        raise UserError(error)
  except UserError as told:
    return str(told)
  return 'none'


def refused_mesh(data: int, batch_size: int) -> str:
  """What a mesh is refused with."""
  try:
    make_mesh(MeshSettings(data, 1), batch_size)
  except UserError as error:
    return str(error)
  return 'none'


def main(index: str, text: str, out: str) -> None:
  """Meets the other, and writes what it was told."""
  with processes.joined(Group(None, None, None, None, 60), {'--length': 1}):
    told = {
      'said': processes.exchange('é' * int(index)),
      'starts': starts(index, text, out),
      'lines': [line_of(index, None), line_of(index, 'it is mine')],
      'meshes': [
        refused_mesh(*shape) for shape in ((-1, 4), (2, 4), (-1, 3), (3, 6))
      ],
    }
    (Path(out) / f'{index}.json').write_text(json.dumps(told))
    if index == '0':
      raise RuntimeError('alone')
    while True:  # process 0 does not come to this
      processes.exchange('there?')


if __name__ == '__main__':
  main(*sys.argv[1:])
