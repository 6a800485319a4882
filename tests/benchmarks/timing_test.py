"""Contenders take turns, as many each, in no order of their own."""

import types
from typing import Any

import pytest

from benchmarks import layer, timing

_PRODUCTS = ('float32', 'highest')


def test_all_take_their_turns_in_another_order_each_round() -> None:
  calls: list[str] = []
  contenders = {name: lambda name=name: calls.append(name) for name in 'abc'}
  times = timing.interleave(contenders, rounds=10)
  rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
  assert len(rounds) == 12
  assert all(sorted(each) == ['a', 'b', 'c'] for each in rounds)
  assert len(set(rounds)) > 3
  assert list(times) == ['a', 'b', 'c']
  assert all(len(each) == 10 for each in times.values())


def test_a_ratio_is_to_the_first_or_none(
  capsys: pytest.CaptureFixture[str],
) -> None:
  def call(seconds: float | None) -> Any:
    program = types.SimpleNamespace(
      seconds=seconds, flops=1, accessed=1, memory=1, size=1, compile=1
    )
    return types.SimpleNamespace(compile_for=lambda device: program, flops=1)

  calls = {'a': call(None), 'b': call(1e-3), 'c': call(2e-3)}
  device: Any = None
  for title, names in (('nothing', 'abc'), ('a', 'bac')):
    compared = {name: calls[name] for name in names}
    layer._Table(title, compared, {}, {}, _PRODUCTS).compile_for(device)
  rows = [
    line.split(' | ')[:3]
    for line in capsys.readouterr().out.splitlines()
    if line.startswith(('| a |', '| b |', '| c |'))
  ]
  assert rows == [
    ['| a', '–', '–'],
    ['| b', '1', '–'],
    ['| c', '2', '–'],
    ['| a', 'expected ms', 'ratio'],
    ['| b', '1', '1.000'],
    ['| a', '–', '–'],
    ['| c', '2', '2.000'],
  ]


@pytest.mark.parametrize(('counted', 'traced'), [(3e9, 2e9), (2e9, 3e9)])
def test_what_either_counts_of_products_is_told(
  counted: float, traced: float, capsys: pytest.CaptureFixture[str]
) -> None:
  program = types.SimpleNamespace(
    seconds=1e-3, flops=counted, accessed=1, memory=1, size=1, compile=1
  )
  call: Any = types.SimpleNamespace(
    compile_for=lambda device: program, flops=traced
  )
  device: Any = None
  layer._Table('x', {'a': call}, {}, {}, _PRODUCTS).compile_for(device)
  row = capsys.readouterr().out.splitlines()[-1]
  assert row.split(' | ')[:4] == ['| a', '1', '1.000', '3']
