"""The paper's model: its size, its causality, its positions, its refusals."""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spectral_jax.core.platform import planned_for
from spectral_jax.layers.dense import SpectralDense
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.attention import causal_attention
from spectral_jax.models.transformer import (
  Block,
  Transformer,
  TransformerConfig,
)

DENSE = LinearConfig('dense')
DENSE_SIZE = 826_368


def small(linear: LinearConfig = DENSE, **fields: Any) -> Transformer:
  sizes = {'context': 6, 'width': 8, 'layers': 2, 'heads': 2} | fields
  return Transformer(11, TransformerConfig(linear=linear, **sizes))


def init(model: Transformer) -> Any:
  """Random parameters, so that no path is closed by a zero."""
  tokens = np.zeros((1, model.config.context), np.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes
  )


def draw_tokens(*shape: int) -> np.ndarray:
  return np.random.default_rng(1).integers(11, size=shape, dtype=np.int32)


@pytest.mark.parametrize(
  ('linear', 'size', 'percent'),
  [
    (DENSE, DENSE_SIZE, 100),
    (LinearConfig(keep=0.5, selection='lowpass'), 433_152, 52),
    (LinearConfig(keep=0.5, selection='strided'), 433_152, 52),
    (LinearConfig(keep=0.25, selection='lowpass'), 236_544, 29),
    (LinearConfig('low_rank', rank=16), 171_008, 21),
  ],
)
def test_the_papers_sizes(
  linear: LinearConfig, size: int, percent: int
) -> None:
  model = Transformer(65, TransformerConfig(linear=linear))
  tokens = jax.ShapeDtypeStruct((1, 128), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  assert shapes.keys() == {'params'}
  stored = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert stored == size
  assert round(100 * stored / DENSE_SIZE) == percent


@pytest.mark.parametrize(
  'linear', [DENSE, LinearConfig(selection='strided')], ids=lambda x: x.kind
)
def test_no_token_sees_a_later_one(linear: LinearConfig) -> None:
  model = small(linear)
  variables = init(model)
  tokens = draw_tokens(1, 6)
  mix = np.random.default_rng(2).normal(size=11).astype(np.float32)

  @jax.jit
  @jax.jacrev
  def influence(positions_TxD: jax.Array) -> jax.Array:
    params = {**variables['params'], 'positions': positions_TxD}
    return jnp.asarray(model.apply({'params': params}, tokens))[0] @ mix

  # What is added at place s stands for the token at s.
  influence_TxS = np.abs(influence(variables['params']['positions'])).sum(-1)
  np.testing.assert_array_equal(np.triu(influence_TxS, 1), 0)
  assert influence_TxS[np.tri(6, dtype=bool)].min() > 1e-6


def test_a_shorter_sequence_is_the_beginning_of_a_longer() -> None:
  model = small()
  variables = init(model)
  tokens = draw_tokens(2, 6)
  apply = jax.jit(model.apply)
  logits = apply(variables, tokens)
  assert logits.shape == (2, 6, 11)
  shorter = apply(variables, tokens[:, :4])
  np.testing.assert_allclose(shorter, logits[:, :4], atol=1e-4)


def test_a_longer_sequence_raises() -> None:
  with pytest.raises(ValueError, match=r'^tokens: expected at most 6 .*got 7'):
    small().init(jax.random.key(0), draw_tokens(1, 7))


@pytest.mark.parametrize('length', [1, 7, 65, 130])
def test_attention_equals_jaxs_forward_and_backward(length: int) -> None:
  rng = np.random.default_rng(0)
  q, k, v, cotangent = rng.normal(size=(4, 2, length, 3, 5)).astype(np.float32)

  def both(attend: Any) -> Any:
    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
      outputs, pull_back = jax.vjp(attend, q, k, v)
      return outputs, pull_back(cotangent)

    return run(q, k, v)

  ours = both(causal_attention)
  jaxs = both(lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, jaxs
  )


@pytest.mark.parametrize(
  ('platform', 'length', 'sizes'),
  [
    ('cpu', 96, [(64, 64), (32, 96)]),
    ('cpu', 1024, [(256, keys) for keys in (256, 512, 768, 1024)]),
    ('tpu', 1024, [(1024, 1024)]),
  ],
)
def test_on_cpus_queries_meet_no_later_part(
  platform: str, length: int, sizes: list[tuple[int, int]]
) -> None:
  floats = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
  with planned_for(platform):
    # A function of its own: what was traced for a platform is kept.
    program = jax.make_jaxpr(lambda *qkv: causal_attention(*qkv))(*[floats] * 3)
  shapes = re.findall(r':f32\[1,1,(\d+),(\d+)\] = exp ', str(program))
  assert [tuple(map(int, shape)) for shape in shapes] == sizes


def test_on_cpus_the_gradient_of_values_is_that_of_their_transpose() -> None:
  q, k, v = np.ones((3, 1, 6, 2, 4), np.float32)

  def loss(v: jax.Array) -> jax.Array:
    return jnp.sum(causal_attention(q, k, v) ** 2)

  program = str(jax.make_jaxpr(jax.grad(loss))(v))
  # Transposed before and after the product: [B, H, E, T], S being T.
  assert program.count('f32[1,2,4,6] = optimization_barrier') == 2


def test_a_block_sums_over_one_axis_of_tokens() -> None:
  block = Block(small(DENSE).config, 0)
  x = jnp.ones((3, 6, 8))
  params = block.init(jax.random.key(0), x)

  def loss(params: Any) -> jax.Array:
    return jnp.sum(block.apply(params, x)[0] ** 2)

  program = str(jax.make_jaxpr(jax.grad(loss))(params))
  assert 'reduce_sum[axes=(0,)' in program  # of biases
  assert 'reduce_sum[axes=(0, 1)' not in program


def test_sequences_that_someone_has_placed_stay_where_they_are() -> None:
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Explicit,))
  block = Block(small(DENSE).config, 0)
  params = block.init(jax.random.key(0), jnp.ones((1, 6, 8)))
  apply = jax.jit(lambda params, x: block.apply(params, x)[0])
  with jax.set_mesh(mesh):
    where = NamedSharding(mesh, PartitionSpec('data'))
    outputs = apply(params, jax.device_put(np.ones((4, 6, 8)), where))
  spec = PartitionSpec('data', None, None)
  assert jax.typeof(outputs).sharding.spec == spec


def test_attention_keeps_the_dtype() -> None:
  q, k, v = jnp.ones((3, 1, 4, 2, 5), jnp.bfloat16)
  assert causal_attention(q, k, v).dtype == jnp.bfloat16


def test_dropout_is_active_in_training_alone() -> None:
  model, without = small(dropout=0.5, layers=1), small(layers=1)
  variables = init(model)
  tokens = draw_tokens(1, 6)
  apply = jax.jit(model.apply, static_argnames='train')

  def trained(seed: int) -> jax.Array:
    rngs = {'dropout': jax.random.key(seed)}
    return apply(variables, tokens, train=True, rngs=rngs)

  expected = jax.jit(without.apply, static_argnames='train')(
    variables, tokens, train=True
  )
  np.testing.assert_allclose(apply(variables, tokens), expected, atol=1e-4)
  np.testing.assert_array_equal(trained(0), trained(0))
  assert jnp.abs(trained(0) - expected).max() > 0.01
  assert jnp.abs(trained(0) - trained(1)).max() > 0.01


def test_every_layer_draws_its_own_positions() -> None:
  model = small(LinearConfig(selection='random', keep=0.25, method='gemm'))
  made = {}

  def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, SpectralDense):
      made[context.module.path] = context.module
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), draw_tokens(1, 6))
  assert {path: layer.seed for path, layer in made.items()} == {
    (f'block_{layer}', name): model.config.seed(layer, name)
    for layer in range(2)
    for name in model.config.kernel_shapes()
  }
  assert len({layer.seed for layer in made.values()}) == 8
  for (_, name), layer in made.items():
    assert layer.features == model.config.kernel_shapes()[name][1]
    assert (layer.keep, layer.selection, layer.method) == (
      0.25,
      'random',
      'gemm',
    )


def test_fused_attention_is_the_same_function() -> None:
  apart, fused = small(qkv='separate'), small()
  variables = init(apart)
  params = variables['params']
  for layer in range(2):
    block = params[f'block_{layer}']
    parts = [block.pop(name) for name in ('query', 'key', 'value')]
    block['qkv'] = jax.tree.map(lambda *p: jnp.concatenate(p, -1), *parts)
  tokens = draw_tokens(2, 6)
  np.testing.assert_allclose(
    fused.apply({'params': params}, tokens),
    apart.apply(init(apart), tokens),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize(
  'linear', [DENSE, LinearConfig(keep=0.25)], ids=['dense', 'spectral']
)
def test_the_initial_scale_is_the_kernels_alone(linear: LinearConfig) -> None:
  tokens = draw_tokens(1, 6)
  once, twice = (
    jax.jit(small(linear, initial_scale=scale).init)(jax.random.key(0), tokens)
    for scale in (1.0, 2.0)
  )

  def ratio(path: Any, x: jax.Array, y: jax.Array) -> None:
    name = jax.tree_util.keystr(path)
    inside = 'block' in name and ('kernel' in name or 'coefficients' in name)
    np.testing.assert_allclose(y, 2 * x if inside else x, rtol=1e-5)

  jax.tree_util.tree_map_with_path(ratio, once, twice)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'context': 0}, '^context: expected at least 1, got 0'),
    ({'width': 0}, '^width: expected at least 1, got 0'),
    ({'layers': 0}, '^layers: expected at least 1, got 0'),
    ({'heads': -1}, '^heads: expected at least 1, got -1'),
    ({'heads': 3}, '^heads: expected a divisor of the width 128, got 3'),
    ({'qkv': 'joined'}, "^qkv: expected one of fused, separate, got 'joined'"),
    ({'initial_scale': 0.0}, '^initial_scale: expected a number above 0'),
    ({'dropout': 1.0}, '^dropout: expected 0 up to but not 1, got 1.0'),
    (
      {'linear': LinearConfig('low_rank', rank=129)},
      r'^linear\.rank: expected at most 128 .*\(layer qkv\)',
    ),
    (
      {'linear': LinearConfig(keep=1 / 3, selection='strided')},
      r'^linear\.keep: a strided selection .*\(layer qkv\)',
    ),
  ],
)
def test_impossible_fields_raise(fields: dict[str, Any], message: str) -> None:
  with pytest.raises(ValueError, match=message):
    TransformerConfig(**fields)


def test_a_scanned_stack_applies_its_blocks_in_turn() -> None:
  model = small(LinearConfig(selection='random'), scan=True, layers=3)
  params, tokens = init(model)['params'], jnp.arange(6)[None]
  config = dataclasses.replace(model.config, scan=False)
  # Every block stores the positions of the first.
  unrolled = {
    f'block_{layer}': model.config.block_params(params, layer)
    for layer in range(3)
  }
  x = params['embed']['embedding'][tokens] + params['positions'][None]
  for block in unrolled.values():
    x, _ = Block(config, 0).apply({'params': block}, x)
  x = nn.LayerNorm().apply({'params': params['final_norm']}, x)
  np.testing.assert_allclose(
    model.apply({'params': params}, tokens),
    x @ params['head']['kernel'],
    atol=1e-4,
  )


def test_a_scanned_program_does_not_grow_with_depth() -> None:
  lines = []
  for layers in (2, 9):
    model = small(LinearConfig(), scan=True, remat=True, layers=layers)
    tokens = jax.ShapeDtypeStruct((1, 6), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    program = jax.jit(model.apply).lower(params, tokens).as_text()
    lines.append(len(program.splitlines()))
  assert lines[0] == lines[1]


def test_bfloat16_is_the_computation_s_alone() -> None:
  model = small(LinearConfig(selection='strided'), dtype='bfloat16')
  params, tokens = init(model)['params'], jnp.arange(6)[None]
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('f4')}
  logits = model.apply({'params': params}, tokens)
  assert logits.dtype == jnp.float32
  wide = small(LinearConfig(selection='strided')).apply(
    {'params': params}, tokens
  )
  error = float(jnp.linalg.norm(logits - wide) / jnp.linalg.norm(wide))
  assert 1e-4 < error < 0.03  # it rounds, and does no more


@pytest.mark.parametrize('scan', [False, True])
def test_a_rematerialised_block_is_computed_again(scan: bool) -> None:
  tokens = jnp.zeros((1, 6), jnp.int32)
  for remat in (True, False):
    model = small(scan=scan, remat=remat)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    program = str(jax.make_jaxpr(model.apply)(params, tokens))
    assert ('remat' in program) == remat


def test_the_softmax_is_taken_in_float32() -> None:
  halves = jax.ShapeDtypeStruct((1, 4, 2, 8), jnp.bfloat16)
  program = jax.make_jaxpr(causal_attention)(halves, halves, halves)
  assert program.out_avals[0].dtype == jnp.bfloat16
  assert re.search(r':f32\[[\d,]*\] = exp ', str(program))
