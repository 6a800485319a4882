"""The spectra of a model's layers, whatever they store."""

import jax
import numpy as np
import pytest
import scipy.fft

from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.spectra import magnitudes


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
