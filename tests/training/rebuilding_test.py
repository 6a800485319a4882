"""Which kernels, or parts of them, a step rebuilds, and what it gathers."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.stored import layers_of
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training import sharding
from spectral_jax.training.kernels import on_kernels
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.program import collectives, product_flops
from spectral_jax.training.settings import MeshSettings
from spectral_jax.training.step import make_initial_state, make_train_step

DENSE = LinearConfig('dense')
STRIDED = LinearConfig(selection='strided')
GEMM = dataclasses.replace(STRIDED, method='gemm')


def traced_step(
  linear: LinearConfig,
  *,
  fsdp: int = 1,
  tensor: int = 1,
  width: int = 32,
  dtype: str = 'float32',
  **how: Any,
) -> Any:
  """A step, as JAX traces it."""
  config = TransformerConfig(
    context=16,
    width=width,
    layers=1,
    heads=4,
    qkv='separate',
    dtype=dtype,
    linear=linear,
  )
  model, optimizer = Transformer(11, config), optax.sgd(1.0)
  if how.get('takes_kernels'):
    optimizer = on_kernels(optimizer, layers_of(model))
  mesh = make_mesh(MeshSettings(1, fsdp, tensor), 8, 4)
  state = jax.eval_shape(make_initial_state(model, optimizer, mesh, seed=0))
  tokens = jax.ShapeDtypeStruct((8, 16), np.int32)
  step: Any = make_train_step(model, optimizer, mesh, seed=0, **how)
  return step.trace(state, {'inputs': tokens, 'targets': tokens})


def traced(
  linear: LinearConfig, *, fsdp: int = 1, tensor: int = 1, **how: Any
) -> tuple[int, str]:
  """The products of a step on each device, and its program."""
  step = traced_step(linear, fsdp=fsdp, tensor=tensor, **how)
  jaxpr = step.jaxpr.jaxpr
  return product_flops(jaxpr, fsdp * tensor), str(jaxpr)


# A whole kernel is put together from quarters. Of what is cut into parts one of
# the two symmetries is left: a half costs as much as all, a quarter the half.
def test_each_device_rebuilds_its_own_columns() -> None:
  one, four = (
    traced(GEMM, tensor=count)[0] - traced(DENSE, tensor=count)[0]
    for count in (1, 4)
  )
  assert four == one / 2 > 0


@pytest.mark.parametrize('accumulate', [1, 2])
def test_devices_that_share_the_rebuilding_do_a_part_each(
  accumulate: int,
) -> None:
  def products(linear: LinearConfig, share: bool) -> int:
    return traced(
      linear, fsdp=4, accumulate=accumulate, share_rebuilding=share
    )[0]

  dense = products(DENSE, False)
  alone, shared = (products(GEMM, share) - dense for share in (False, True))
  assert shared == alone / 2 > 0


def test_one_device_shares_with_none() -> None:
  alone, shared = (
    traced(STRIDED, accumulate=2, share_rebuilding=share)[0]
    for share in (False, True)
  )
  assert shared == alone


def test_kernels_are_rebuilt_by_their_method_and_as_often_as_asked() -> None:
  rounded = LinearConfig(selection='strided', method='gemm_bf16')
  rebuilding = {}
  for every in ('step', 'microbatch'):
    spectral, program = traced(rounded, accumulate=4, rebuild_every=every)
    dense, _ = traced(DENSE, accumulate=4, rebuild_every=every)
    rebuilding[every] = spectral - dense
    assert 'reduce_precision' in program  # as CPUs round to bfloat16
  assert rebuilding['microbatch'] == 4 * rebuilding['step']


@pytest.mark.parametrize(
  'how',
  [
    {'fsdp': 2, 'accumulate': 2},
    {'fsdp': 2, 'share_rebuilding': True},
    {'tensor': 2},
  ],
  ids=str,
)
def test_for_a_tpu_auto_rounds_factors_wherever_layers_are_in_bfloat16(
  how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(sharding, 'platform', lambda mesh: 'tpu')
  rounded = dataclasses.replace(STRIDED, method='gemm_bf16')
  auto, asked = (
    traced(linear, dtype='bfloat16', **how) for linear in (STRIDED, rounded)
  )
  assert auto == asked


def test_for_a_tpu_kernels_that_the_optimizer_takes_are_not_rounded(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(sharding, 'platform', lambda mesh: 'tpu')
  assert traced(STRIDED, dtype='bfloat16', takes_kernels=True) == traced(
    GEMM, dtype='bfloat16', takes_kernels=True
  )


def test_bands_are_gathered_before_they_are_skewed(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(sharding, 'platform', lambda mesh: 'tpu')

  def gathered(selection: str) -> int:
    """Bytes, where the optimizer takes kernels."""
    linear = LinearConfig(selection=selection)
    step = traced_step(linear, fsdp=4, width=64, takes_kernels=True)
    program = step.lower().compile().as_text()
    return sum(
      sent.bytes * sent.times
      for sent in collectives(program)
      if sent.kind == 'all-gather'
    )

  assert gathered('band') == gathered('random') > 0
