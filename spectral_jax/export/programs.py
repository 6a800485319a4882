"""A model as programs of StableHLO, for JAX without Flax and without us.

Shapes: kernel [N, M]; K coefficients; B sequences, T the context, V vocabulary.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from spectral_jax.core.dct import computed_basis
from spectral_jax.core.selection import Selection
from spectral_jax.errors import UserError
from spectral_jax.export.trained import Options, Trained, rebuilds_inside

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(trained: Trained, out: Path, options: Options) -> None:
  """Writes two programs, as `jax.export` serializes them, and what they are of.

  `weights.bin` takes nothing and returns the parameters of a dense model;
  `forward.bin` takes these and tokens [B, T], int32, and returns logits
  [B, T, V]. `model.json` has `context`, `slide` and `tokenizer`, as an ONNX
  model's metadata has.

  Args:
    trained: what to write.
    out: the folder.
    options: dtype: float32; rebuild.

  Raises:
    UserError: for another dtype, a basis that the program cannot compute, or
      if the package flatbuffers is not installed.
  """
  options.check_dtype('float32')
  inside = rebuilds_inside(trained.model, options.rebuild)
  is_spectral = trained.model.config.linear.kind == 'spectral'
  dense = trained.merged() if is_spectral else trained
  made = _rebuilding(trained) if inside else _constants(dense)
  context = dense.model.config.context

  def forward(params: Any, tokens_BxT: jax.Array) -> Any:
    return dense.model.apply({'params': params}, tokens_BxT)

  shapes = jax.eval_shape(made)
  tokens_BxT = jax.ShapeDtypeStruct(
    export.symbolic_shape(f'b, {context}'), jnp.int32
  )
  out.mkdir()
  (out / 'weights.bin').write_bytes(_serialized(made))
  (out / 'forward.bin').write_bytes(_serialized(forward, shapes, tokens_BxT))
  (out / 'model.json').write_text(json.dumps(trained.to_generate()) + '\n')


def _serialized(program: Callable[..., Any], *arguments: Any) -> bytes:
  exported = export.export(jax.jit(program), platforms=_PLATFORMS)(*arguments)
  try:
    return bytes(exported.serialize())
  except ImportError as error:
    raise UserError(
      'StableHLO wants the package flatbuffers, which is not installed: pip '
      'install -r requirements-export.txt'
    ) from error


def _constants(trained: Trained) -> Callable[[], Any]:
  """A program that returns parameters as they are."""
  params = jax.device_get(trained.params)
  return lambda: jax.tree.map(jnp.asarray, params)


def _rebuilding(trained: Trained) -> Callable[[], Any]:
  """A program that returns parameters, their kernels made of coefficients."""
  leaves = traverse_util.flatten_dict(jax.device_get(trained.params), sep='/')
  layers = trained.layers()

  def make() -> Any:
    made = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    for path, stored in layers.items():
      del made[f'{path}/coefficients']
      made[f'{path}/kernel'] = _kernel(
        leaves[f'{path}/coefficients'], stored.selection
      ).reshape(stored.shape)
    return traverse_util.unflatten_dict(made, sep='/')

  return make


def _kernel(coefficients: np.ndarray, selection: Selection) -> jax.Array:
  """Kernels [S, N, M] of S times K coefficients.

  The program holds the coefficients in the order of their places, and a bit for
  each place: what would compute the positions are sorts, which a TPU's compiler
  takes minutes for.
  """
  n, m = selection.shape
  order_K = np.argsort(selection.positions)
  coefficients_SxK = coefficients.reshape(-1, selection.count)[:, order_K]
  is_kept = np.zeros(selection.size, bool)
  is_kept[selection.positions] = True
  # Behind the barrier XLA does not compute it while it compiles.
  coefficients_SxK, bits = jax.lax.optimization_barrier(
    (jnp.asarray(coefficients_SxK), jnp.asarray(np.packbits(is_kept)))
  )
  kept = jnp.unpackbits(bits)[: selection.size]
  number = jnp.maximum(jnp.cumsum(kept, dtype=jnp.int32) - 1, 0)
  planes = jnp.where(kept[None] > 0, coefficients_SxK[:, number], 0.0)
  left_NxN, right_MxM = (
    computed_basis(size, np.arange(size), jnp.dtype(jnp.float32), size)
    for size in (n, m)
  )
  return jnp.einsum(
    'rn,src,cm->snm',
    left_NxN,
    planes.reshape(-1, n, m),
    right_MxM,
    precision=jax.lax.Precision.HIGHEST,
  )
