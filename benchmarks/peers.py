"""The same transformer in PyTorch, as its users write it, and its train step.

Wants requirements-peers.txt. Shapes as in spectral_jax/models/transformer.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch import nn
from torch.nn import functional

from benchmarks.contenders import VOCABULARY
from benchmarks.peer_layer import use_all_cores
from spectral_jax.models.transformer import TransformerConfig
from spectral_jax.training.settings import OptimizerSettings, Settings

_EPSILON = 1e-6  # Flax's, of a norm


class Block(nn.Module):
  """One pre-norm block."""

  def __init__(self, config: TransformerConfig):
    super().__init__()
    self.heads = config.heads
    self.attention_norm = nn.LayerNorm(config.width, _EPSILON)
    self.mlp_norm = nn.LayerNorm(config.width, _EPSILON)
    for name, (n, m) in config.kernel_shapes().items():
      self.add_module(name, nn.Linear(n, m))

  def forward(self, x_BxTxD: torch.Tensor) -> torch.Tensor:
    """Maps [B, T, D] to [B, T, D]."""
    qkv_BxTx3D = self.qkv(self.attention_norm(x_BxTxD))
    q, k, v = (
      part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
      for part in qkv_BxTx3D.chunk(3, dim=-1)
    )
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x_BxTxD = x_BxTxD + self.out(attended.transpose(1, 2).flatten(2))
    hidden_BxTxF = functional.gelu(
      self.mlp_in(self.mlp_norm(x_BxTxD)), approximate='tanh'
    )
    return x_BxTxD + self.mlp_out(hidden_BxTxF)


class Transformer(nn.Module):
  """Tokens [B, T] to logits [B, T, V]; names are those of our parameters."""

  def __init__(self, vocabulary: int, config: TransformerConfig):
    super().__init__()
    self.embed = nn.Embedding(vocabulary, config.width)
    self.positions = nn.Parameter(torch.zeros(config.context, config.width))
    self.blocks = [Block(config) for _ in range(config.layers)]
    for layer, block in enumerate(self.blocks):
      self.add_module(f'block_{layer}', block)
    self.final_norm = nn.LayerNorm(config.width, _EPSILON)
    self.head = nn.Linear(config.width, vocabulary, bias=False)

  def forward(self, tokens_BxT: torch.Tensor) -> torch.Tensor:
    """Maps tokens to logits."""
    x_BxTxD = self.embed(tokens_BxT) + self.positions[: tokens_BxT.shape[1]]
    for block in self.blocks:
      x_BxTxD = block(x_BxTxD)
    return self.head(self.final_norm(x_BxTxD))

  def load_ours(self, params: Mapping[str, Any]) -> None:
    """Takes the parameters of a dense model of ours, not scanned."""
    state = {}
    for (*layer, name), leaf in flatten_dict(params).items():
      # An embedding [V, D] is laid out alike; a kernel [N, M] is not.
      values = np.array(leaf.T if name == 'kernel' else leaf)
      name = {'bias': 'bias', 'positions': 'positions'}.get(name, 'weight')
      state['.'.join((*layer, name))] = torch.from_numpy(values)
    self.load_state_dict(state)


def unlike(config: TransformerConfig) -> str:
  """A field of a model of ours that this one does not follow, or ''."""
  same = TransformerConfig()
  fields = ('qkv', 'dtype', 'dropout')
  return next(
    (
      f'{field}={getattr(config, field)}'
      for field in fields
      if getattr(config, field) != getattr(same, field)
    ),
    '',
  )


def adamw(
  model: nn.Module, settings: OptimizerSettings
) -> torch.optim.Optimizer:
  """AdamW as ours, at its peak rate; matrices decay, embeddings do not."""
  decays: dict[bool, list[Any]] = {True: [], False: []}
  for name, parameter in model.named_parameters():
    embeds = name in ('embed.weight', 'positions')
    decays[parameter.ndim == 2 and not embeds].append(parameter)
  return torch.optim.AdamW(
    [
      {'params': decays[True], 'weight_decay': settings.weight_decay},
      {'params': decays[False], 'weight_decay': 0.0},
    ],
    lr=settings.learning_rate,
    betas=(settings.b1, settings.b2),
    fused=True,  # the fastest that it has
  )


def train_steps(
  settings: Settings, tokens_BxT: np.ndarray
) -> Callable[[], float]:
  """A function that takes the next step on a batch and returns its loss."""
  use_all_cores()
  model = Transformer(VOCABULARY, settings.model)
  optimizer = adamw(model, settings.optimizer)
  tokens = torch.from_numpy(tokens_BxT).long()

  def step() -> float:
    optimizer.zero_grad()
    logits_BxTxV = model(tokens)
    loss = functional.cross_entropy(logits_BxTxV.flatten(0, 1), tokens.ravel())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
    optimizer.step()
    return loss.item()

  return step
