"""What a spectral layer keeps for its backward pass: a kernel, or less."""

import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from spectral_jax import SpectralDense
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig

SHAPE = (8, 12)
KERNEL_METHODS = ('gemm', 'fft', 'gemm_fft', 'idctn')


@pytest.fixture
def kept(
  capsys: pytest.CaptureFixture[str],
) -> Callable[..., set[tuple[int, ...]]]:
  """The shapes of what a function keeps."""

  def shapes(
    function: Callable[..., jax.Array], *arguments: object
  ) -> set[tuple[int, ...]]:
    capsys.readouterr()
    print_saved_residuals(function, *arguments)
    found = re.findall(r'^\w+\[([\d,]*)\]', capsys.readouterr().out, re.M)
    return {tuple(map(int, filter(None, s.split(',')))) for s in found}

  return shapes


def _layer(make: type[nn.Module], method: str) -> nn.Module:
  return make(SHAPE[1], keep=0.5, selection='strided', method=method)


@pytest.mark.parametrize('method', KERNEL_METHODS)
def test_a_layer_keeps_its_kernel_unless_asked_not_to(
  kept: Callable[..., set[tuple[int, ...]]], method: str
) -> None:
  layer = _layer(SpectralDense, method)
  frugal = _layer(nn.remat(SpectralDense), method)
  x = np.random.default_rng(0).normal(size=(5, SHAPE[0])).astype(np.float32)
  params = jax.jit(layer.init)(jax.random.key(0), x)
  assert SHAPE in kept(layer.apply, params, x)
  # Coefficients and inputs, constants of the transform, and no more.
  sizes = {int(np.prod(shape)) for shape in kept(frugal.apply, params, x)}
  assert max(sizes) < np.prod(SHAPE)
  gradients = [
    jax.jit(jax.grad(lambda p, m=m: jnp.sum(m.apply(p, x) ** 2)))(params)
    for m in (layer, frugal)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *gradients,
  )


@pytest.mark.parametrize('method', ['factored', 'folded'])
def test_what_builds_none_has_none_to_keep(
  kept: Callable[..., set[tuple[int, ...]]], method: str
) -> None:
  layer = _layer(SpectralDense, method)
  x = jax.ShapeDtypeStruct((5, SHAPE[0]), jnp.float32)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  assert SHAPE not in kept(layer.apply, params, x)


@pytest.mark.parametrize('remat', [False, True])
def test_remat_of_a_model_keeps_no_kernel(
  kept: Callable[..., set[tuple[int, ...]]], remat: bool
) -> None:
  config = TransformerConfig(
    context=6,
    width=16,
    layers=1,
    remat=remat,
    linear=LinearConfig(selection='strided', method='gemm'),
  )
  model, tokens = Transformer(7, config), jnp.zeros((1, 6), jnp.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)
  kernels = set(config.kernel_shapes().values())
  found = kernels & kept(lambda p: model.apply(p, tokens), params)
  assert found == (set() if remat else kernels)
