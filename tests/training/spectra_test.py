"""The spectra of a model's layers, whatever they store."""

import jax
import numpy as np
import pytest
import scipy.fft

from spectral_jax.layers.find_layers import find_layers
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.spectra import magnitudes, stable_ranks


@pytest.mark.parametrize(
  'linear',
  [
    LinearConfig('dense'),
    LinearConfig('low_rank', rank=3),
    LinearConfig(selection='random', keep=0.3),
    LinearConfig(selection='strided', keep=0.5),
  ],
  ids=['dense', 'low_rank', 'random', 'strided'],
)
def test_they_are_the_transform_of_what_the_layer_does(
  linear: LinearConfig,
) -> None:
  config = TransformerConfig(
    context=4, width=8, layers=2, heads=1, linear=linear
  )
  model = Transformer(5, config)
  tokens = np.zeros((1, 4), np.int32)
  params = jax.jit(model.init)(jax.random.key(0), tokens)['params']
  spectra = magnitudes(params, config)
  assert {name: s.shape for name, s in spectra.items()} == {
    'qkv': (2, 8, 24),
    'out': (2, 8, 8),
    'mlp_in': (2, 8, 32),
    'mlp_out': (2, 32, 8),
  }
  for name, shape in config.kernel_shapes().items():
    for block in range(config.layers):
      layer = linear.make(
        shape[1],
        seed=config.seed(block, name),
        kernel_init=jax.nn.initializers.normal(),
        name=name,
      )
      variables = {'params': params[f'block_{block}'][name]}
      zero, units = (
        np.asarray(layer.apply(variables, x.astype(np.float32)))
        for x in (np.zeros((1, shape[0])), np.eye(shape[0]))
      )
      plane = np.abs(scipy.fft.dctn(units - zero, norm='ortho'))
      ours = spectra[name][block]
      np.testing.assert_allclose(np.nan_to_num(ours), plane, atol=1e-5)
      if linear.kind == 'spectral':
        kept = linear.select(shape, config.seed(block, name)).count
        assert np.isfinite(ours).sum() == kept
      else:
        assert np.isfinite(ours).all()


@pytest.mark.parametrize(
  ('linear', 'most'),
  [
    (LinearConfig('low_rank', rank=2), 2),
    (LinearConfig(selection='block', keep=4 / 64), 2),
    (LinearConfig(selection='random', keep=0.5), 8),
  ],
  ids=['low_rank', 'block', 'random'],
)
def test_stable_ranks_are_those_of_the_kernels(
  linear: LinearConfig, most: int
) -> None:
  config = TransformerConfig(
    context=4, width=8, layers=2, heads=1, linear=linear
  )
  tokens = np.zeros((1, 4), np.int32)
  params = jax.jit(Transformer(5, config).init)(jax.random.key(0), tokens)
  ranks = stable_ranks(params['params'], config)['out']
  assert ranks.shape == (2,)
  assert np.all((ranks >= 1) & (ranks <= most + 1e-4))
  layer = params['params']['block_1']['out']
  # A layer's kernel is what it does to the unit vectors.
  module = linear.make(
    8,
    seed=config.seed(1, 'out'),
    kernel_init=jax.nn.initializers.zeros,
    name='',
  )
  kernel = module.apply({'params': layer}, np.eye(8)) - layer['bias'][None]
  values = np.linalg.svd(kernel, compute_uv=False)
  assert ranks[1] == pytest.approx(np.sum(values**2) / values[0] ** 2, rel=1e-4)


def test_a_scanned_stack_has_the_spectra_of_its_blocks() -> None:
  linear = LinearConfig(selection='random', keep=0.5)
  config = TransformerConfig(
    context=4, width=8, layers=2, heads=1, linear=linear, scan=True
  )
  tokens = np.zeros((1, 4), np.int32)
  model = Transformer(5, config)
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  rng = np.random.default_rng(0)
  stored = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  layers = find_layers(model, tokens)
  for name, spectra in magnitudes(stored, config).items():
    assert spectra.shape == (2, *config.kernel_shapes()[name])
    positions = layers[f'blocks/{name}'].selection.positions
    coefficients = stored['blocks'][name]['coefficients']
    for spectrum, values in zip(spectra, coefficients, strict=True):
      assert np.isfinite(spectrum).sum() == values.size
      np.testing.assert_allclose(
        spectrum.flat[positions], np.abs(values), rtol=1e-6
      )


def test_what_was_dropped_is_not_stored() -> None:
  linear = LinearConfig(selection='strided', keep=1.0)
  config = TransformerConfig(
    context=4, width=8, layers=1, heads=1, linear=linear
  )
  tokens = np.zeros((1, 4), np.int32)
  model = Transformer(5, config)
  params = jax.device_get(model.init(jax.random.key(0), tokens)['params'])
  ranks = stable_ranks(params, config)
  coefficients = np.array(params['block_0']['out']['coefficients'])
  coefficients[0, 2, 5] = 0
  params['block_0']['out']['coefficients'] = coefficients
  plane = magnitudes(params, config)['out'][0]
  assert np.argwhere(np.isnan(plane)).tolist() == [[2, 5]]
  assert stable_ranks(params, config)['out'] != ranks['out']
