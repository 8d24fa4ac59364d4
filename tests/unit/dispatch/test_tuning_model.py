"""Selection by measured times against a model that is as plain as the rules it follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantmux.config import LinearConfig
from quantmux.dispatch import Selection, TuningRow, TuningTable
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]
Ask = Callable[..., Selection]

SCHEME = "fp8_block128"
CONFIG = LinearConfig(in_features=4096, out_features=4096, scheme=SCHEME)
PRODUCERS = ("torch/q", "triton/q")
CONSUMERS = ("cutlass/a", "torch/b", "triton/c")
PIPELINES = [(p, c) for p in PRODUCERS for c in CONSUMERS]

near = st.sampled_from([(4096, 4096), (2048, 4096), (8192, 7168)])
rows = st.builds(
    lambda ids, shape, m, us: TuningRow(
        pipeline=ids, scheme=SCHEME, n=shape[0], k=shape[1], m=m, us=us
    ),
    st.sampled_from(PIPELINES),
    near,
    st.sampled_from([1, 16, 64, 4096]),
    st.sampled_from([10.0, 10.2, 10.4, 11.0, 20.0, 40.0]),
)
unrelated = st.builds(
    lambda ids, scheme, shape, m, us: TuningRow(
        pipeline=ids, scheme=scheme, n=shape[0], k=shape[1], m=m, us=us
    ),
    st.sampled_from([*PIPELINES, ("rival/q", "rival/d"), ("torch/b",)]),
    st.sampled_from(["fp8_tensor", "fp8_block128+exact", "fp8_block128 out=fp32", SCHEME]),
    st.just((65536, 65536)),
    st.sampled_from([1, 7, 64, 4096]),
    st.sampled_from([1.0, 30.0]),
)


@pytest.fixture
def kernels(producer: Make, consumer: Make) -> tuple[KernelSpec, ...]:
    made = [producer(name, "fp8_group128", ("row_major",)) for name in PRODUCERS]
    made += [consumer(name, SCHEME, ("row_major",)) for name in CONSUMERS]
    return tuple(made)


def model(found: list[TuningRow], m: int) -> set[tuple[str, ...]] | None:
    """Give the pipelines that tie for the fastest at M, None where times do not decide."""
    last = {row.key: row for row in found}.values()

    def distance(shape: tuple[int, int]) -> float:
        return abs(math.log(4096 / shape[0])) + abs(math.log(4096 / shape[1]))

    for shape in sorted({(r.n, r.k) for r in last}, key=lambda s: (distance(s), s)):
        if distance(shape) > math.log(4):
            break
        at: dict[int, dict[tuple[str, ...], float]] = {}
        for r in last:
            if (r.n, r.k) == shape:
                at.setdefault(r.m, {})[r.pipeline] = r.us
        whole = [one for one, us in at.items() if {ids[-1] for ids in us} == set(CONSUMERS)]
        if whole:
            times = at[min(whole, key=lambda one: (max(one / m, m / one), one))]
            return {ids for ids, us in times.items() if us <= min(times.values()) * 1.03}
    return None


def winners(selection: Selection, ms: list[int]) -> list[tuple[str, ...]]:
    return [
        next(
            c.pipeline.ids
            for c in selection.ranges
            if c.m_min <= m and (c.m_max is None or m <= c.m_max)
        )
        for m in ms
    ]


MS = [1, 2, 4, 5, 16, 31, 32, 33, 63, 64, 65, 127, 256, 257, 1024, 2047, 2048, 2049, 4096, 60000]
FIXTURES = [HealthCheck.function_scoped_fixture]


@settings(suppress_health_check=FIXTURES, deadline=None, max_examples=80)
@given(found=st.lists(rows, max_size=40))
def test_the_winner_is_the_models(
    kernels: tuple[KernelSpec, ...], ask: Ask, found: list[TuningRow]
) -> None:
    selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(found)})
    (plain,) = ask(CONFIG, *kernels).ranges
    static = [p.ids for p in plain.candidates]
    for m, ids in zip(MS, winners(selection, MS), strict=True):
        ties = model(found, m) or set(static)
        assert ids == next(one for one in static if one in ties), m


@settings(suppress_health_check=FIXTURES, deadline=None, max_examples=40)
@given(found=st.lists(rows, max_size=30), more=st.lists(unrelated, max_size=10))
def test_rows_of_something_else_change_nothing(
    kernels: tuple[KernelSpec, ...], ask: Ask, found: list[TuningRow], more: list[TuningRow]
) -> None:
    one = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(found)})
    other = ask(CONFIG, *kernels, inventory={"tuning": TuningTable([*more, *found])})
    assert one.to_dict() == other.to_dict()


@settings(suppress_health_check=FIXTURES, deadline=None, max_examples=40)
@given(found=st.lists(rows, max_size=30), seed=st.randoms())
def test_the_order_of_rows_changes_nothing(
    kernels: tuple[KernelSpec, ...], ask: Ask, found: list[TuningRow], seed: Any
) -> None:
    unique = list({row.key: row for row in found}.values())
    one = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(unique)})
    seed.shuffle(unique)
    other = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(unique)})
    assert one.to_dict() == other.to_dict()


@settings(suppress_health_check=FIXTURES, deadline=None, max_examples=40)
@given(found=st.lists(rows, max_size=30), m=st.sampled_from(MS))
def test_one_m_gives_what_all_give(
    kernels: tuple[KernelSpec, ...], ask: Ask, found: list[TuningRow], m: int
) -> None:
    table = {"tuning": TuningTable(found)}
    whole = winners(ask(CONFIG, *kernels, inventory=table), [m])
    assert winners(ask(CONFIG, *kernels, inventory=table, m=m), [m]) == whole
