"""Compiling ahead: what is printed, what fits, and what is refused."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental import topologies

from configs import base
from spectral_jax.errors import UserError
from spectral_jax.training import aot
from spectral_jax.training.settings import Settings
from spectral_jax.training.topology import Generation, Topology


def _settings(text: Path, **mesh: int) -> Settings:
  config = base.get_config()
  config.data.corpus, config.data.path = 'text', str(text)
  config.data.directory = str(text.parent)
  config.model.update({'layers': 1, 'width': 32, 'context': 16, 'heads': 4})
  config.model.qkv = 'separate'
  config.mesh.update(mesh)
  return Settings.from_mapping(config.to_dict())


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
  """Eight CPU devices stand in for TPUs: 1 GiB each, or of 2 slices 1 B."""

  def of(name: str, slices: int) -> Topology:
    generation = Generation(name, name, memory=2**30 if slices == 1 else 1)
    return Topology(generation, tuple(jax.devices()))

  monkeypatch.setattr(Topology, 'of', of)


@pytest.mark.usefixtures('here')
def test_the_costs_of_each_device(
  text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  aot.compile_ahead(_settings(text, data=2, fsdp=2, tensor=2), 'v5e:2x4', 1)
  printed = capsys.readouterr().out
  facts = dict(
    line.split('  ', 1) for line in printed.splitlines() if '  ' in line
  )
  facts = {name.strip(): value.strip() for name, value in facts.items()}
  assert facts['mesh'] == 'data 2, fsdp 2, tensor 2'
  assert facts['devices'] == '8 (8 chips)'
  # 6,144 coefficients over four devices, and vectors and embeddings over two.
  assert facts['parameters'].endswith('KiB')
  assert 2 * float(facts['parameters'].split()[0]) == pytest.approx(
    float(facts['optimizer state'].split()[0]), rel=0.01
  )
  assert {'all-gather', 'reduce-scatter', 'all-reduce'} <= facts.keys()
  assert facts['fits'] == 'yes'


@pytest.mark.usefixtures('here')
def test_what_does_not_fit_ends_with_status_1(
  text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  with pytest.raises(SystemExit) as ended:
    aot.compile_ahead(_settings(text, data=8), 'v5e:2x4', 2)
  assert ended.value.code == 1
  printed = capsys.readouterr()
  assert printed.err.startswith('error: the step does not fit into 1 B')
  assert 'fits             no' in printed.out


@pytest.mark.usefixtures('here')
def test_a_mesh_that_leaves_devices_out_is_refused(text: Path) -> None:
  settings = _settings(text, data=4)
  with pytest.raises(UserError, match=r'takes 4 of the 8 devices of v5e:2x4'):
    aot.compile_ahead(settings, 'v5e:2x4', 1)


def test_a_compiler_that_gives_up_is_quoted(
  text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  class Lowered:
    def compile(self) -> None:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Used 20G\n of 16G')

  class Step:
    def trace(self, *_: Any) -> Any:
      return self

    def lower(self) -> Lowered:
      return Lowered()

    jaxpr = jax.make_jaxpr(lambda: 0)()

  experiment = aot.Experiment.to_compile(_settings(text), jax.devices())
  monkeypatch.setattr(aot.Experiment, 'train_step', lambda _: Step())
  cost = aot.cost_of_step(experiment)
  assert cost.peak is None
  assert cost.refusal == 'Used 20G of 16G'
  assert dataclasses.replace(cost, refusal='').sent == {}


def test_without_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match=r'pip install -r requirements-tpu\.txt'):
    Topology.of('v5e:2x4')


@pytest.mark.parametrize('name', ['v9:2x2', 'v5e:3x7', 'v5e', ''])
def test_an_unknown_topology_is_answered_with_those_there_are(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(**_: Any) -> None:
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: not divisible\nmore')

  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: object())
  monkeypatch.setattr(topologies, 'get_topology_desc', refuse)
  with pytest.raises(UserError, match=r'v5e:2x4 to 16x16, v5p:2x2x1') as error:
    Topology.of(name)
  assert '\n' not in str(error.value)
