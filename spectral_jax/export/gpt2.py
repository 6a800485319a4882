"""A model as a GPT-2 in Hugging Face's layout, and such a GPT-2 as a model.

The architecture is GPT-2's: pre-norm blocks, learned positions, GELU by tanh.
Its linear layers are dense, so spectral ones are rebuilt; its kernels are
[N, M], as here. A head that is tied to the embedding is a copy of it here.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray
from safetensors.numpy import save

from spectral_jax.errors import UserError
from spectral_jax.export import gpt2_tokenizer
from spectral_jax.export.run_metadata import (
  has_run,
  read_run,
  run_metadata,
)
from spectral_jax.export.tensor_file import TensorFile
from spectral_jax.export.trained import (
  Options,
  Trained,
  check_believable,
)
from spectral_jax.layers.linear import LinearConfig
from spectral_jax.models.transformer import Transformer, TransformerConfig
from spectral_jax.training.reading import describe_type
from spectral_jax.training.workdir import read_json

_WEIGHTS = 'model.safetensors'
_CONFIG = 'config.json'
_PREFIX = 'transformer.'
# Ours, and GPT-2's: in each block.
_BLOCK = {
  'attention_norm.scale': 'ln_1.weight',
  'attention_norm.bias': 'ln_1.bias',
  'qkv.kernel': 'attn.c_attn.weight',
  'qkv.bias': 'attn.c_attn.bias',
  'out.kernel': 'attn.c_proj.weight',
  'out.bias': 'attn.c_proj.bias',
  'mlp_norm.scale': 'ln_2.weight',
  'mlp_norm.bias': 'ln_2.bias',
  'mlp_in.kernel': 'mlp.c_fc.weight',
  'mlp_in.bias': 'mlp.c_fc.bias',
  'mlp_out.kernel': 'mlp.c_proj.weight',
  'mlp_out.bias': 'mlp.c_proj.bias',
}
_REST = {
  'embed.embedding': 'wte.weight',
  'positions': 'wpe.weight',
  'final_norm.scale': 'ln_f.weight',
  'final_norm.bias': 'ln_f.bias',
}
_HEAD = 'lm_head.weight'
# Masks, which older files have among their tensors.
_MASKS = ('attn.bias', 'attn.masked_bias')
# Keys that change the function, and the values that it has here.
_ONLY = {
  'model_type': ('gpt2',),
  'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'add_cross_attention': (False,),
}
_DEFAULTS = {
  'activation_function': 'gelu_new',
  'scale_attn_weights': True,
  'scale_attn_by_inverse_layer_idx': False,
  'add_cross_attention': False,
  'layer_norm_epsilon': 1e-5,
  'tie_word_embeddings': True,
  'n_inner': None,
}


def write(trained: Trained, out: Path, options: Options) -> None:
  """Writes a folder that `GPT2LMHeadModel.from_pretrained` loads.

  Args:
    trained: what to write.
    out: the folder.
    options: dtype: float32, the default, or bfloat16.

  Raises:
    UserError: for another dtype, or low-rank layers.
  """
  dtype = options.check_dtype('float32', 'bfloat16')
  merged = trained.merged()
  tensors = {
    name: np.ascontiguousarray(tensor, np.dtype(getattr(jnp, dtype)))
    for name, tensor in _tensors(merged)
  }
  out.mkdir()
  told = {'format': 'pt'} | run_metadata(merged)  # transformers wants the first
  (out / _WEIGHTS).write_bytes(save(tensors, told))
  config = _config_of(merged) | {'dtype': dtype}
  (out / _CONFIG).write_text(json.dumps(config, indent=2) + '\n')
  if trained.tokenizer is not None:
    context = merged.model.config.context
    gpt2_tokenizer.write(trained.tokenizer, out, context)


def read(path: Path) -> Trained:
  """Reads a GPT-2 and, where `write` wrote it, its tokenizer and its recipe.

  Args:
    path: the folder, or the file of safetensors with config.json beside it.

  Raises:
    UserError: for files that cannot be read, or a model that is not GPT-2's
      function.
  """
  weights = path / _WEIGHTS if path.is_dir() else path
  if path.is_dir() and not weights.is_file():
    raise UserError(
      f'{path}: no {_WEIGHTS} in it; one file must hold them all.'
    )
  where = weights.parent / _CONFIG
  config = _DEFAULTS | read_json(where)
  model = _model_of(config, where)
  file = TensorFile.read(weights)
  try:
    check_believable(model, file.bytes, len(file.tensors))
  except ValueError as error:
    raise UserError(f'{where}: {error}') from None
  params = _params(file, model, bool(config['tie_word_embeddings']))
  if not has_run(file):
    return Trained(model, params)
  recipe, tokenizer, digest = read_run(file)
  if tokenizer.vocabulary_size != model.vocabulary:
    raise UserError(
      f'{where}: vocab_size: expected {tokenizer.vocabulary_size}, as the '
      f'tokenizer has them, got {model.vocabulary}.'
    )
  recipe['model'] = dataclasses.asdict(model.config)
  return Trained(model, params, tokenizer, recipe, digest)


def _tensors(merged: Trained) -> Iterator[tuple[str, NDArray[Any]]]:
  """GPT-2's tensors, by name."""
  params = jax.device_get(merged.params)
  config = merged.model.config
  leaves = traverse_util.flatten_dict(params, sep='.')
  for ours, name in _REST.items():
    yield _PREFIX + name, leaves[ours]
  for layer in range(config.layers):
    block = dict(config.block_params(params, layer))
    if config.qkv == 'separate':
      parts = [block.pop(name) for name in ('query', 'key', 'value')]
      block['qkv'] = jax.tree.map(
        lambda *leaf: np.concatenate(leaf, axis=-1), *parts
      )
    leaves_of_block = traverse_util.flatten_dict(block, sep='.')
    for ours, name in _BLOCK.items():
      yield f'{_PREFIX}h.{layer}.{name}', leaves_of_block[ours]
  yield _HEAD, leaves['head.kernel'].T


def _config_of(merged: Trained) -> dict[str, Any]:
  """GPT-2's config.json."""
  config = merged.model.config
  end = merged.tokenizer.separator if merged.tokenizer else None
  return _DEFAULTS | {
    'architectures': ['GPT2LMHeadModel'],
    'model_type': 'gpt2',
    'vocab_size': merged.model.vocabulary,
    'n_positions': config.context,
    'n_embd': config.width,
    'n_layer': config.layers,
    'n_head': config.heads,
    'layer_norm_epsilon': config.norm_epsilon,
    'embd_pdrop': config.dropout,
    'resid_pdrop': config.dropout,
    'attn_pdrop': 0.0,
    'tie_word_embeddings': False,
    'bos_token_id': end,
    'eos_token_id': end,
  }


def _model_of(config: dict[str, Any], where: Path) -> Transformer:
  """The model that a config.json tells of."""
  for key, values in _ONLY.items():
    if config.get(key) not in values:
      raise UserError(
        f'{where}: {key}: expected {" or ".join(map(repr, values))}, got '
        f'{config.get(key)!r}; that is another function than is computed here.'
      )

  def number(key: str, kind: type) -> Any:
    value = config.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
      raise UserError(
        f'{where}: {key}: expected {describe_type(kind)}, got {value!r}.'
      )
    return value

  width = number('n_embd', int)
  if config['n_inner'] not in (None, 4 * width):
    raise UserError(
      f'{where}: n_inner: expected {4 * width}, four times n_embd, got '
      f'{config["n_inner"]!r}.'
    )
  try:
    return Transformer(
      number('vocab_size', int),
      TransformerConfig(
        context=number('n_positions', int),
        width=width,
        layers=number('n_layer', int),
        heads=number('n_head', int),
        norm_epsilon=number('layer_norm_epsilon', float),
        linear=LinearConfig(kind='dense'),
      ),
    )
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f'{where}: {error}') from None


def _params(file: TensorFile, model: Transformer, tied: bool) -> Any:
  """Our parameters, out of GPT-2's tensors."""
  config, width = model.config, model.config.width
  prefix = _PREFIX if _PREFIX + 'wte.weight' in file.tensors else ''
  shapes = {
    'embed.embedding': (model.vocabulary, width),
    'positions': (config.context, width),
  }
  leaves = {
    ours: file.take(prefix + name, *shapes.get(ours, (width,)))
    for ours, name in _REST.items()
  }
  matrices = config.kernel_shapes()
  for layer in range(config.layers):
    for ours, name in _BLOCK.items():
      linear, leaf = ours.split('.')
      rows, columns = matrices.get(linear, (width, width))
      shape = (rows, columns) if leaf == 'kernel' else (columns,)
      leaves[f'{config.block_name(layer)}.{ours}'] = file.take(
        f'{prefix}h.{layer}.{name}', *shape
      )
    for mask in _MASKS:
      file.tensors.pop(f'{prefix}h.{layer}.{mask}', None)
  head = leaves['embed.embedding']
  if not tied:
    head = file.take(_HEAD, model.vocabulary, width)
  file.tensors.pop(_HEAD, None)
  file.check_all_taken()
  leaves['head.kernel'] = head.T
  return traverse_util.unflatten_dict(
    {name: jnp.asarray(leaf) for name, leaf in leaves.items()}, sep='.'
  )
