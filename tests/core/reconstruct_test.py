"""Coefficients to kernel and back, against SciPy in float64."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from jax.test_util import check_grads

from spectral_jax.core.part import Part
from spectral_jax.core.platform import planned_for
from spectral_jax.core.reconstruct import (
  coefficients_from_kernel,
  kernel_from_coefficients,
)
from spectral_jax.core.selection import Selection
from spectral_jax.training.program import product_flops

SELECTIONS = [
  Selection('lowpass', (1, 9), 4),
  Selection('lowpass', (13, 7), 40),
  Selection('lowpass', (96, 5), 100),
  Selection('block', (5, 5), 7),
  Selection('block', (6, 64), 97),
  Selection('random', (9, 1), 3),
  Selection('random', (7, 110), 96, seed=4),
  Selection('random', (4, 6), 24),
  Selection('strided', (1, 5), 5),
  Selection('strided', (6, 9), 18, seed=1),
  Selection('strided', (96, 8), 96),
  Selection('strided', (8, 32), 128, seed=2),
  Selection('strided', (8, 12), 24, seed=1),  # an odd offset
  Selection('lowpass', (7, 9), 63),
  Selection('band', (6, 14), 30, seed=3),
]
rebuild = jax.jit(kernel_from_coefficients, static_argnums=(1, 2))
MIXED = [SELECTIONS[1], SELECTIONS[9]]  # one with a gather, one without
TURNED = SELECTIONS[12]  # of half of its lines, by `gemm_fft`


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scipy_kernel(coefficients: np.ndarray, selection: Selection) -> np.ndarray:
  plane = np.zeros(selection.shape)
  plane.flat[selection.positions] = coefficients.ravel()
  return scipy.fft.idctn(plane, norm='ortho')


def scipy_coefficients(kernel: np.ndarray, selection: Selection) -> np.ndarray:
  plane = scipy.fft.dctn(kernel.astype(np.float64), norm='ortho')
  return plane.flat[selection.positions].reshape(selection.layout)


def relative_error(got: jax.Array, expected: np.ndarray) -> float:
  assert got.shape == expected.shape
  return float(
    np.linalg.norm(np.asarray(got, np.float64) - expected)
    / np.linalg.norm(expected)
  )


@pytest.mark.parametrize(
  ('method', 'selection'),
  [('gemm', selection) for selection in SELECTIONS]
  + [('idctn', SELECTIONS[i]) for i in (0, 4, 6, 9)]
  + [('fft', SELECTIONS[i]) for i in (0, 1, 3, 5, 6, 9, 10, 12)]
  + [('gemm_fft', selection) for selection in SELECTIONS]
  + [('auto', SELECTIONS[i]) for i in (2, 11)],
  ids=lambda x: x if isinstance(x, str) else f'{x.kind}-{x.shape}',
)
def test_every_method_equals_scipy_forward_and_backward(
  method: str, selection: Selection
) -> None:
  @jax.jit
  def both(
    coefficients: jax.Array, cotangent: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    kernel, pull_back = jax.vjp(
      lambda c: kernel_from_coefficients(c, selection, method), coefficients
    )
    project = functools.partial(
      coefficients_from_kernel, selection=selection, method=method
    )
    return (kernel, *pull_back(cotangent), project(cotangent), project(kernel))

  coefficients = draw(selection.layout)
  cotangent = draw(selection.shape, seed=1)
  kernel, gradient, projection, round_trip = both(coefficients, cotangent)
  expected = scipy_coefficients(cotangent, selection)
  assert relative_error(kernel, scipy_kernel(coefficients, selection)) < 1e-5
  assert relative_error(gradient, expected) < 1e-5
  assert relative_error(projection, expected) < 1e-5
  assert relative_error(round_trip, coefficients) < 1e-5
  # The adjoint's definition, without SciPy: ⟨K c, w⟩ = ⟨c, Kᵀ w⟩.
  np.testing.assert_allclose(
    np.vdot(kernel, cotangent),
    np.vdot(coefficients, projection),
    atol=1e-5 * np.linalg.norm(coefficients) * np.linalg.norm(cotangent),
  )


@pytest.mark.parametrize('selection', MIXED, ids=lambda s: s.kind)
def test_projection_is_the_best_approximation(selection: Selection) -> None:
  kernel = draw(selection.shape).astype(np.float64)
  best = np.asarray(
    coefficients_from_kernel(jnp.asarray(kernel, jnp.float32), selection)
  )
  dense, *_ = np.linalg.lstsq(
    np.stack(
      [
        scipy_kernel(unit, selection).ravel()
        for unit in np.eye(selection.count)
      ],
      axis=1,
    ),
    kernel.ravel(),
  )
  np.testing.assert_allclose(best.ravel(), dense, atol=1e-5)


@pytest.mark.parametrize(
  ('method', 'dtype'),
  [
    ('idctn', 'bfloat16'),
    ('fft', 'bfloat16'),
    ('gemm', 'bfloat16'),
    ('gemm', 'float16'),
  ],
)
def test_narrow_coefficients_are_rebuilt_in_float32(
  method: str, dtype: str
) -> None:
  selection = Selection('random', (48, 40), 700)
  coefficients = jnp.asarray(draw(selection.layout), dtype)
  kernel = rebuild(coefficients, selection, method)
  assert kernel.dtype == dtype
  expected = scipy_kernel(np.asarray(coefficients, np.float64), selection)
  # Rounded once, at the end.
  half_unit = float(jnp.finfo(dtype).eps) / 2
  np.testing.assert_allclose(
    np.asarray(kernel, np.float64), expected, rtol=half_unit, atol=1e-6
  )


@pytest.mark.parametrize(
  ('method', 'selection'),
  [
    ('idctn', MIXED[1]),
    ('fft', MIXED[1]),
    ('gemm', MIXED[1]),
    ('gemm_fft', TURNED),
  ],
  ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_float64_coefficients_are_rebuilt_in_float64(
  method: str, selection: Selection
) -> None:
  with jax.enable_x64(True):
    coefficients = jnp.asarray(draw(selection.layout), jnp.float64)
    kernel = rebuild(coefficients, selection, method)
    assert kernel.dtype == jnp.float64
    expected = scipy_kernel(np.asarray(coefficients), selection)
    assert relative_error(kernel, expected) < 1e-14


@pytest.mark.parametrize(
  ('method', 'selection'),
  [
    ('gemm', MIXED[0]),
    ('gemm', MIXED[1]),
    ('idctn', MIXED[0]),
    ('fft', MIXED[0]),
    ('gemm_fft', SELECTIONS[11]),
  ],
  ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_derivatives_equal_numerical_ones(
  method: str, selection: Selection
) -> None:
  def curved(coefficients: jax.Array) -> jax.Array:
    kernel = kernel_from_coefficients(coefficients, selection, method)
    return jnp.sum(jnp.sin(kernel))

  coefficients = jnp.asarray(draw(selection.layout))
  check_grads(jax.jit(curved), (coefficients,), order=1, rtol=2e-2)


@pytest.mark.parametrize(
  ('method', 'selection'),
  [
    ('gemm', MIXED[0]),
    ('gemm', MIXED[1]),
    ('idctn', MIXED[1]),
    ('fft', MIXED[1]),
    ('gemm_fft', TURNED),
  ],
  ids=lambda x: x if isinstance(x, str) else x.kind,
)
def test_a_batch_of_kernels_by_vmap(method: str, selection: Selection) -> None:
  coefficients = draw((3, *selection.layout))
  kernels = jax.vmap(lambda c: rebuild(c, selection, method))(coefficients)
  expected = np.stack([scipy_kernel(c, selection) for c in coefficients])
  assert relative_error(kernels, expected) < 1e-5


def test_the_rebuilding_keeps_the_norm() -> None:
  selection = SELECTIONS[1]
  coefficients = jnp.asarray(draw(selection.layout))
  gradient = jax.grad(
    lambda c: jnp.sum(kernel_from_coefficients(c, selection) ** 2) / 2
  )(coefficients)
  np.testing.assert_allclose(gradient, coefficients, atol=1e-5)


def test_large_bases_in_the_graph() -> None:
  selection = Selection('strided', (1032, 4), 1032 * 2)
  coefficients = draw(selection.layout)
  kernel = rebuild(coefficients, selection, 'gemm')
  assert relative_error(kernel, scipy_kernel(coefficients, selection)) < 1e-5


@pytest.mark.parametrize('method', ['idctn', 'fft', 'gemm_fft'])
def test_what_has_no_other_basis_says_so(method: str) -> None:
  selection = Selection('lowpass', (4, 6), 12)
  with pytest.raises(
    ValueError, match=rf"^method: '{method}' has no basis but"
  ):
    kernel_from_coefficients(jnp.zeros(12), selection, method, 'orthonormal')


def test_wrong_arguments_raise() -> None:
  selection = Selection('strided', (4, 6), 12)
  coefficients = jnp.zeros((2, 2, 3))
  with pytest.raises(
    ValueError, match=r'^coefficients: .*\(2, 2, 3\).*\(12,\)'
  ):
    kernel_from_coefficients(coefficients.ravel(), selection)
  with pytest.raises(ValueError, match=r'^kernel: .*\(4, 6\), got \(6, 4\)'):
    coefficients_from_kernel(jnp.zeros((6, 4)), selection)
  with pytest.raises(ValueError, match=r"^method: .*fft, got 'fast'"):
    kernel_from_coefficients(coefficients, selection, 'fast')
  with pytest.raises(ValueError, match=r"^method: .*fft, got 'fast'"):
    coefficients_from_kernel(jnp.zeros((4, 6)), selection, 'fast')


def test_whole_numbers_are_refused_and_numpy_is_taken() -> None:
  selection = Selection('lowpass', (4, 6), 12)
  with pytest.raises(ValueError, match=r'^coefficients: expected floats'):
    kernel_from_coefficients(np.ones(12, np.int32), selection)
  with pytest.raises(ValueError, match=r'^kernel: expected floats'):
    coefficients_from_kernel(np.ones((4, 6), np.int32), selection)
  assert kernel_from_coefficients(np.ones(12), selection).shape == (4, 6)


@pytest.mark.parametrize('selection', MIXED, ids=lambda x: x.kind)
def test_rounded_factors_cost_no_more_than_their_rounding(
  selection: Selection,
) -> None:
  coefficients = draw(selection.layout)
  cotangent = draw(selection.shape, seed=1)

  @jax.jit
  def both(coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
    kernel, pull_back = jax.vjp(
      lambda c: kernel_from_coefficients(c, selection, 'gemm_bf16'),
      coefficients,
    )
    return kernel, pull_back(jnp.asarray(cotangent))[0]

  kernel, gradient = both(coefficients)
  assert kernel.dtype == gradient.dtype == jnp.float32
  errors = (
    relative_error(kernel, scipy_kernel(coefficients, selection)),
    relative_error(gradient, scipy_coefficients(cotangent, selection)),
  )
  for error in errors:
    assert 1e-4 < error < 2**-7  # it does round; a factor to 2⁻⁹ at the most


@pytest.mark.parametrize(
  'selection',
  [
    Selection.of('strided', (64, 48), 0.25),
    Selection.of('strided', (512, 128), 0.25),
    Selection.of('strided', (1064, 32), 0.5),
    Selection.of('block', (64, 48), 0.25),
    Selection.of('lowpass', (128, 512), 0.5),
    Selection.of('lowpass', (1064, 32), 0.5),
  ],
  ids=str,
)
def test_rounded_rebuilding_is_a_program_of_its_own(
  selection: Selection,
) -> None:
  # jaxlib has no CPU kernel for some products of bfloat16 with a batch of their
  # own, as of a stack of kernels, and says so when they run.
  coefficients = draw(selection.layout)

  def rebuild(coefficients: jax.Array) -> jax.Array:
    return kernel_from_coefficients(coefficients, selection, 'gemm_bf16')

  kernel = scipy_kernel(coefficients, selection)
  assert relative_error(jax.jit(rebuild)(coefficients), kernel) < 2**-7
  stack = jax.jit(jax.vmap(rebuild))(np.stack([coefficients, -coefficients]))
  assert relative_error(stack, np.stack([kernel, -kernel])) < 2**-7


@pytest.mark.parametrize('method', ['idctn', 'gemm', 'gemm_bf16', 'gemm_fft'])
@pytest.mark.parametrize('axis', [0, 1])
def test_parts_are_those_of_the_whole(method: str, axis: int) -> None:
  for selection in (SELECTIONS[4], SELECTIONS[11]):
    coefficients = jnp.asarray(draw(selection.layout))
    whole = kernel_from_coefficients(coefficients, selection, method)
    parts = [
      kernel_from_coefficients(
        coefficients, selection, method, part=Part(axis, index, 2)
      )
      for index in range(2)
    ]
    np.testing.assert_allclose(
      np.concatenate(parts, axis), whole, atol=2e-2 if 'bf' in method else 1e-5
    )


def test_parts_are_equal() -> None:
  selection = SELECTIONS[0]
  with pytest.raises(ValueError, match=r'count that divides 9, got 2'):
    kernel_from_coefficients(
      jnp.zeros(selection.layout), selection, part=Part(1, 0, 2)
    )


@pytest.mark.parametrize(
  'selection',
  [
    Selection.of('strided', (540, 1060), 0.5, seed=1),
    Selection.of('strided', (1060, 540), 0.5),
    Selection.of('strided', (1064, 32), 0.25),  # two blocks of each parity
    Selection.of('strided', (32, 1064), 0.5),
    Selection.of('block', (40, 700), 0.9),
    Selection.of('block', (201, 905), 0.88),  # 189×849, in uneven quarters
  ],
  ids=str,
)
def test_for_a_tpu_panels_of_rows_are_multiplied_in_turn(
  selection: Selection,
) -> None:
  def run(platform: str) -> tuple[jax.Array, jax.Array, Any, int]:
    def both(c: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
      rebuild = functools.partial(
        kernel_from_coefficients, selection=selection, method='gemm'
      )
      kernel, pull_back = jax.vjp(rebuild, c)
      return kernel, pull_back(k)[0]

    drawn = draw(selection.layout), draw(selection.shape, seed=1)
    with planned_for(platform):
      traced = jax.jit(both).trace(*drawn)
    compiled = traced.lower().compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return *compiled(*drawn), traced.jaxpr, temporaries

  kernel, gradient, program, temporaries = run('cpu')
  assert 'scan' not in str(program)
  in_panels, its_gradient, its_program, its_temporaries = run('tpu')
  assert 'scan' in str(its_program)
  # Two products each way, however many pieces and panels, no strides within a
  # block; and for the way back no panel keeps its bases.
  assert str(its_program).count(' dot_general[') == 4
  strides = re.findall(r'strides=\((?:\d, )*(\d, \d)\)', str(its_program))
  assert set(strides) <= {'1, 1'}
  assert its_temporaries - temporaries < 2 * 4 * math.prod(selection.shape)
  products = [product_flops(each.jaxpr, 1) for each in (program, its_program)]
  assert products[0] <= products[1] < 1.03 * products[0]
  assert relative_error(in_panels, np.asarray(kernel)) < 1e-6
  assert relative_error(its_gradient, np.asarray(gradient)) < 1e-6


def test_for_a_tpu_rounded_factors_take_one_pass_whatever_the_default() -> None:
  selection = Selection('strided', (8, 32), 128, seed=2)

  def program(precision: str | None) -> str:
    def both(c: jax.Array, k: jax.Array) -> jax.Array:
      rebuild = functools.partial(
        kernel_from_coefficients, selection=selection, method='gemm_bf16'
      )
      return jax.vjp(rebuild, c)[1](k)[0]

    drawn = draw(selection.layout), draw(selection.shape)
    with planned_for('tpu'), jax.default_matmul_precision(precision):
      return str(jax.make_jaxpr(both)(*drawn))

  assert program('highest') == program(None)
