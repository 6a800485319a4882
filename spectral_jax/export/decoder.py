"""The transformer as an ONNX graph, for runtimes that know nothing of JAX.

Names are those that Hugging Face's exporters give to decoders.

Shapes: B sequences, T new tokens after P past ones, S = P + T; D width, H heads
of E features, V vocabulary.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectral_jax.errors import UserError
from spectral_jax.export.graph import Graph
from spectral_jax.export.rebuilding import kernel_in_graph
from spectral_jax.export.trained import Options, Trained, rebuilds_inside
from spectral_jax.models.transformer import TransformerConfig

_LARGEST = 2 * 10**9  # bytes, of the protobuf that an ONNX file is


def write(trained: Trained, out: Path, options: Options) -> None:
  """Writes a model that gives logits, and keeps keys and values.

  Inputs: `input_ids` [B, T], int64, and for each layer L
  `past_key_values.L.key` and `.value` [B, H, P, E] of the tokens before; P is 0
  at first, and P + T at most the context. Outputs: `logits` [B, T, V], and
  `present.L.key` and `.value` [B, H, S, E], the past of the next call. In the
  model's metadata, as JSON, are `context`, `slide` (how many of the oldest
  tokens to drop where the context is full) and `tokenizer`.

  Args:
    trained: what to write; it will compute in float32.
    out: the file.
    options: dtype: float32; rebuild.

  Raises:
    UserError: for another dtype, and as `decoder` does.
  """
  options.check_dtype('float32')
  out.write_bytes(decoder(trained, options.rebuild))


def decoder(trained: Trained, rebuild: str = 'inside') -> bytes:
  """The file that `write` writes.

  Raises:
    UserError: for a basis that the graph cannot compute, or a model that is too
      large for a file.
  """
  is_spectral = trained.model.config.linear.kind == 'spectral'
  if not rebuilds_inside(trained.model, rebuild) and is_spectral:
    trained = trained.merged()
  if trained.bytes > _LARGEST:
    raise UserError(
      f'--format=onnx: expected at most {_LARGEST:,} bytes of parameters, got '
      f'{trained.bytes:,}; take another format.'
    )
  config, vocabulary = trained.model.config, trained.model.vocabulary
  params = jax.device_get(trained.params)
  graph = Graph()
  places_T, seen_TxS = _places(graph)
  embed_VxD = graph.stored('embed', params['embed']['embedding'])
  positions = graph.stored('positions', params['positions'])
  x_BxTxD = graph.op(
    'Add',
    graph.op('Gather', embed_VxD, 'input_ids'),
    graph.op('Gather', positions, places_T),
  )
  for layer in range(config.layers):
    block = _Block(graph, config, layer, config.block_params(params, layer))
    x_BxTxD = block.attention(x_BxTxD, seen_TxS)
    x_BxTxD = block.mlp(x_BxTxD)
  x_BxTxD = _norm(
    graph, x_BxTxD, 'final_norm', params['final_norm'], config.norm_epsilon
  )
  head = graph.stored('head', params['head']['kernel'])
  graph.give('logits', graph.op('MatMul', x_BxTxD, head))

  def kept(name: str, axis: str) -> dict[str, Any]:
    """The keys and values of all layers."""
    shape = ('batch', config.heads, axis, config.width // config.heads)
    return {
      f'{name}.{layer}.{part}': (np.float32, shape)
      for layer in range(config.layers)
      for part in ('key', 'value')
    }

  logits = (np.float32, ('batch', 'tokens', vocabulary))
  return graph.model(
    {'input_ids': (np.int64, ('batch', 'tokens'))}
    | kept('past_key_values', 'past'),
    {'logits': logits} | kept('present', 'seen'),
    {name: json.dumps(value) for name, value in trained.to_generate().items()},
  )


def _places(graph: Graph) -> tuple[str, str]:
  """Places [T] of the new tokens, and which ones of all each sees [T, S]."""
  past, new = (
    graph.op('Shape', name, start=axis, end=axis + 1)
    for name, axis in (('past_key_values.0.key', 2), ('input_ids', 1))
  )
  end = graph.op('Squeeze', graph.op('Add', past, new))
  places_S = graph.op('Range', graph.constant(0), end, graph.constant(1))
  places_T = graph.op(
    'Range', graph.op('Squeeze', past), end, graph.constant(1)
  )
  column_Tx1 = graph.op('Unsqueeze', places_T, graph.constant([1]))
  return places_T, graph.op('LessOrEqual', places_S, column_Tx1)


def _norm(
  graph: Graph, x_BxTxD: str, name: str, params: Any, epsilon: float
) -> str:
  scale, bias = (
    graph.stored(f'{name}.{part}', params[part]) for part in ('scale', 'bias')
  )
  return graph.op('LayerNormalization', x_BxTxD, scale, bias, epsilon=epsilon)


@dataclasses.dataclass(frozen=True)
class _Block:
  """One block of the model, in the graph that grows."""

  graph: Graph
  config: TransformerConfig
  layer: int
  params: Any

  def _stored(self, name: str, leaf: str) -> str:
    path = f'block_{self.layer}.{name}.{leaf}'
    return self.graph.stored(path, self.params[name][leaf])

  def _linear(self, x: str, name: str) -> str:
    linear = self.config.linear
    if linear.kind == 'dense':
      kernel = self._stored(name, 'kernel')
    elif linear.kind == 'low_rank':
      down, up = self._stored(name, 'down'), self._stored(name, 'up')
      kernel = self.graph.op('MatMul', down, up)
    else:
      selection = linear.select(
        self.config.kernel_shapes()[name], self.config.seed(self.layer, name)
      )
      coefficients = self._stored(name, 'coefficients')
      kernel = kernel_in_graph(self.graph, coefficients, selection)
    product = self.graph.op('MatMul', x, kernel)
    return self.graph.op('Add', product, self._stored(name, 'bias'))

  def _norm(self, x_BxTxD: str, name: str) -> str:
    path = f'block_{self.layer}.{name}'
    epsilon = self.config.norm_epsilon
    return _norm(self.graph, x_BxTxD, path, self.params[name], epsilon)

  def _with_past(self, new_BxHxTxE: str, part: str) -> str:
    past = f'past_key_values.{self.layer}.{part}'
    both = self.graph.op('Concat', past, new_BxHxTxE, axis=2)
    return self.graph.give(f'present.{self.layer}.{part}', both)

  def attention(self, x_BxTxD: str, seen_TxS: str) -> str:
    """The stream, with what attention adds."""
    graph, config = self.graph, self.config
    h = self._norm(x_BxTxD, 'attention_norm')
    if config.qkv == 'fused':
      fused = self._linear(h, 'qkv')
      parts = graph.ops('Split', fused, outputs=3, axis=-1, num_outputs=3)
    else:
      parts = [self._linear(h, name) for name in ('query', 'key', 'value')]
    size = config.width // config.heads
    shape = graph.constant([0, 0, config.heads, size])
    q, k, v = (
      graph.op('Transpose', graph.op('Reshape', part, shape), perm=[0, 2, 1, 3])
      for part in parts
    )
    k, v = self._with_past(k, 'key'), self._with_past(v, 'value')
    q = graph.op('Mul', q, graph.constant(1 / math.sqrt(size), np.float32))
    scores = graph.op('MatMul', q, graph.op('Transpose', k, perm=[0, 1, 3, 2]))
    scores = graph.op(
      'Where', seen_TxS, scores, graph.constant(-math.inf, np.float32)
    )
    weights = graph.op('Softmax', scores, axis=-1)
    attended = graph.op(
      'Transpose', graph.op('MatMul', weights, v), perm=[0, 2, 1, 3]
    )
    merged = graph.op('Reshape', attended, graph.constant([0, 0, config.width]))
    return graph.op('Add', x_BxTxD, self._linear(merged, 'out'))

  def mlp(self, x_BxTxD: str) -> str:
    """The stream, with what the MLP adds."""
    h = self._norm(x_BxTxD, 'mlp_norm')
    hidden = self.graph.op(
      'Gelu', self._linear(h, 'mlp_in'), approximate='tanh'
    )
    return self.graph.op('Add', x_BxTxD, self._linear(hidden, 'mlp_out'))
