"""The train step and the evaluation step: pure, jitted, over a mesh.

Shapes: B sequences of T tokens; A microbatches.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from spectral_jax.convert.project import to_dense
from spectral_jax.core.platform import planned_for
from spectral_jax.models.stored import DENSE, layers_of, with_linear
from spectral_jax.models.transformer import Transformer
from spectral_jax.training import sharding
from spectral_jax.training.parallel import gather_all, on_mesh

Batch = dict[str, jax.Array]
Metrics = Mapping[str, jax.Array | np.float32]


class TrainState(flax.struct.PyTreeNode):
  """What a step changes. Dropout's randomness follows from seed and step.

  Attributes:
    step: optimizer steps taken, int32.
    params: the model's parameters; of a spectral kernel, its K coefficients.
    opt_state: Optax's state.
  """

  step: jax.Array
  params: Any
  opt_state: optax.OptState


class TrainStep(Protocol):
  """One optimizer step; see `make_train_step`."""

  def __call__(
    self, state: TrainState, batch: Batch, loss_limit: ArrayLike = jnp.inf
  ) -> tuple[TrainState, Metrics]:
    """Returns the next state and the step's metrics."""


EvaluationStep = Callable[[Any, Batch], tuple[jax.Array, jax.Array]]


def init_state(
  model: Transformer, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """A state at step 0."""
  tokens = jnp.zeros((1, model.config.context), jnp.int32)
  params = model.init(jax.random.key(seed), tokens)['params']
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_initial_state(
  model: Transformer,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
) -> Callable[[], TrainState]:
  """Compiles what makes the state at step 0, on a mesh."""

  def init() -> TrainState:
    return init_state(model, optimizer, seed)

  shardings = sharding.of_state(jax.eval_shape(init), mesh)
  return jax.jit(init, out_shardings=shardings)


def make_train_step(
  model: Transformer,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  seed: int,
  accumulate: int = 1,
  rebuild_every: str = 'step',
  share_rebuilding: bool = False,
  takes_kernels: bool = False,
  skip_bad: bool = False,
) -> TrainStep:
  """Compiles one optimizer step; the state passed in is donated.

  Args:
    model: gives the logits.
    optimizer: turns gradients into updates.
    mesh: batches [B, T] are split over it, the state over its axis `fsdp`.
    seed: of dropout.
    accumulate: A, which divides B: the gradient is the mean over A microbatches
      taken one after the other.
    rebuild_every: `step` or `microbatch`, if there are several of these: when
      layers are gathered and their kernels rebuilt.
    share_rebuilding: whether each device rebuilds a part of what several need.
    takes_kernels: whether the optimizer takes the gradients of kernels, see
      `on_kernels`. They are then rebuilt once a step, and lie on the mesh as a
      dense model's.
    skip_bad: whether a step leaves parameters and moments as they are if its
      loss is above `loss_limit`, or its loss, gradient or update not finite.

  Returns:
    A function of (state, batch with `inputs` and `targets`, loss_limit in nats
    per token) to the next state and the metrics `train_loss` (nats per token),
    `gradient_norm` and `gradient_norms`, one for each leaf of the parameters
    (with `takes_kernels`, of the kernel in place of the coefficients);
    and, with `skip_bad`, `skipped`: 1 or 0.
  """
  once = accumulate > 1 and rebuild_every == 'step' and not takes_kernels
  layers = layers_of(model) if once or takes_kernels else {}
  linear = model.config.linear
  rebuilt = with_linear(model, DENSE) if layers else model

  def loss_fn(params: Any, batch: Batch, dropout_key: jax.Array) -> jax.Array:
    with on_mesh(mesh, gathered=once, shared=share_rebuilding):
      logits_BxTxV = rebuilt.apply(
        {'params': params},
        batch['inputs'],
        train=True,
        rngs={'dropout': dropout_key},
      )
    return optax.softmax_cross_entropy_with_integer_labels(
      logits_BxTxV, batch['targets']
    ).mean()

  def loss_and_gradient(
    params: Any, batch: Batch, keys: jax.Array
  ) -> tuple[jax.Array, Any]:
    if accumulate == 1:
      return jax.value_and_grad(loss_fn)(params, batch, keys[0])
    # Every device keeps its own sequences: microbatch a takes each A-th.
    microbatches = jax.tree.map(
      lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def add(total: Any, microbatch: tuple[Batch, jax.Array]) -> Any:
      part = jax.value_and_grad(loss_fn)(params, *microbatch)
      return jax.tree.map(jnp.add, total, part), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (microbatches, keys))
    return jax.tree.map(lambda x: x / accumulate, total)

  @planned_for(sharding.platform(mesh))
  def train_step(
    state: TrainState, batch: Batch, loss_limit: ArrayLike = jnp.inf
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    keys = jax.random.split(key, accumulate)
    params = state.params
    if once:
      gathered, pull_back = jax.vjp(
        lambda params: gather_all(
          params,
          layers,
          linear.method,
          mesh,
          dtype=model.config.dtype,
          shared=share_rebuilding,
        ),
        params,
      )
      loss, grads = loss_and_gradient(gathered, batch, keys)
      (grads,) = pull_back(grads)
    elif takes_kernels:
      # Gathered before they are laid out, on planes larger than they.
      params = jax.lax.with_sharding_constraint(
        params, sharding.replicated(mesh)
      )
      dense = to_dense(params, layers, linear.method)
      dense = jax.lax.with_sharding_constraint(
        dense, sharding.of_state(dense, mesh)
      )
      loss, grads = loss_and_gradient(dense, batch, keys)
    else:
      loss, grads = loss_and_gradient(params, batch, keys)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    norms = jnp.stack(
      [optax.tree.norm(leaf) for leaf in jax.tree.leaves(grads)]
    )
    metrics = {
      'train_loss': loss,
      'gradient_norm': optax.tree.norm(grads),
      # On every device, that each process can read them.
      'gradient_norms': jax.lax.with_sharding_constraint(
        norms, sharding.replicated(mesh)
      ),
    }
    after = TrainState(state.step + 1, params, opt_state)
    if skip_bad:
      sizes = jnp.stack(
        [loss, metrics['gradient_norm'], optax.tree.norm(updates)]
      )
      good = jnp.isfinite(sizes).all() & (loss <= loss_limit)
      after = _either(good, after, state)
      metrics['skipped'] = 1.0 - good
    state = jax.lax.with_sharding_constraint(
      after, sharding.of_state(after, mesh)
    )
    return state, metrics

  return jax.jit(train_step, donate_argnums=0)


def _either(
  good: jax.Array, after: TrainState, before: TrainState
) -> TrainState:
  """The state after a good step; after a bad one, that before it.

  The step counts either way, and so does that of the learning rate's schedule.
  """

  def pick(new: Any, old: Any) -> Any:
    if isinstance(new, optax.ScaleByScheduleState):
      return new
    return jnp.where(good, new, old)

  picked: TrainState = jax.tree.map(
    pick,
    after,
    before,
    is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState),
  )
  return picked.replace(step=after.step)


def make_evaluation_step(model: Transformer, mesh: Mesh) -> EvaluationStep:
  """Compiles the sum of losses, in nats, and of weights over a batch."""

  def evaluation_step(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    with on_mesh(mesh):
      logits_BxTxV = model.apply({'params': params}, batch['inputs'])
    losses_BxT = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxTxV, batch['targets']
    )
    return jnp.sum(losses_BxT * batch['weights']), jnp.sum(batch['weights'])

  return jax.jit(evaluation_step, out_shardings=sharding.replicated(mesh))
