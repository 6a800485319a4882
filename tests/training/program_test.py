"""What a compiled program's text says of messages and products."""

import jax
import jax.numpy as jnp

from spectral_jax.training.program import collectives, product_flops

PROGRAM = """
%begun (p: f32[4,8]) -> f32[8,8] {
  %g = f32[8,8]{1,0} all-gather(%p), frontend_attributes={chain_id="0"}
  %s = f32[8,8] custom-call(%g), custom_call_target="AsyncCollectiveStart"
}
%overlapped (p: f32[4,8]) -> f32[8,8] {
  %g = f32[8,8]{1,0} all-gather(%p), frontend_attributes={chain_id="0"}
}
%ended (p: f32[4,8]) -> f32[8,8] {
  %g = f32[8,8]{1,0} all-gather(%p), frontend_attributes={chain_id="0"}
  %d = f32[8,8] custom-call(%g), custom_call_target="AsyncCollectiveDone"
}
%inner (p: f32[2]) -> f32[6] {
  %h = f32[8,8] fusion(%p), kind=kCustom, calls=%overlapped
  %s = bf16[3,2]{1,0} reduce-scatter(%w), replica_groups=[1,4]<=[4]
}
%condition (p: f32[2]) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}
%body (p: f32[2]) -> f32[2] {
  %f = f32[8,8] fusion(%p), kind=kCustom, calls=%begun
  %e = f32[8,8] fusion(%p), kind=kCustom, calls=%ended
  %w = while(%p), condition=%condition, body=%inner, metadata={}
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %a = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), channel_id=1
  %d = f32[8,4]{1,0} all-gather-done(%a)
  %b = (f32[6,2]{1,0}, f32[7]{0}) all-reduce(%y, %z), channel_id=2
  %c = f32[2]{0} reduce-scatter(%w), replica_groups=mesh['a'=2,'b'=4] {'b'}
  %w = while(%p), body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_operations_are_read_from_a_program() -> None:
  found = {(c.kind, c.shape, c.bytes, c.times) for c in collectives(PROGRAM)}
  assert found == {
    ('all-gather', (8, 8), 8 * 8 * 4, 3),  # a chain around a loop
    ('reduce-scatter', (3, 2), 4 * 3 * 2 * 2, 15),  # a loop in a loop
    ('all-gather', (8, 4), 8 * 4 * 4, 1),  # in two halves
    ('all-reduce', (6, 2), 6 * 2 * 4, 1),
    ('all-reduce', (7,), 7 * 4, 1),
    ('reduce-scatter', (2,), 4 * 2 * 4, 1),
  }
  assert len(collectives(PROGRAM)) == 6


def test_products_are_counted_through_loops_and_gradients() -> None:
  def loss(w: jax.Array) -> jax.Array:
    def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
      return x @ w, None

    return jax.lax.scan(body, jnp.ones((2, 3)), None, length=5)[0].sum()

  w = jax.ShapeDtypeStruct((3, 3), jnp.float32)
  forward = 2 * 2 * 3 * 3 * 5
  assert product_flops(jax.make_jaxpr(loss)(w).jaxpr, 1) == forward
  both = jax.make_jaxpr(jax.jit(jax.grad(loss)))(w).jaxpr
  assert product_flops(both, 1) == 3 * forward
  assert product_flops(both, 2) == 3 * forward / 2
