"""Measured times: look-up, thresholds, and when they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmux.config import InverseRopeQuantizeConfig, LinearConfig, QuantizeConfig
from quantmux.dispatch import Selection, TuningRow, TuningTable
from quantmux.dispatch.tuning import tuning_key
from quantmux.errors import ConfigError
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]
Ask = Callable[..., Selection]

CONFIG = LinearConfig(in_features=4096, out_features=4096, scheme="fp8_block128")


def row(consumer: str, m: int, us: float, **more: Any) -> TuningRow:
    fields = {"scheme": "fp8_block128", "n": 4096, "k": 4096, **more}
    return TuningRow(pipeline=("triton/q", consumer), m=m, us=us, **fields)


@pytest.fixture
def kernels(producer: Make, consumer: Make) -> tuple[KernelSpec, ...]:
    return (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )


def test_the_fastest_wins_where_all_contenders_were_measured(
    kernels: tuple[KernelSpec, ...], ask: Ask
) -> None:
    rows = [
        row("cutlass/a", 16, 10.0),
        row("torch/b", 16, 20.0),
        row("cutlass/a", 1024, 100.0),
        row("torch/b", 1024, 50.0),
    ]
    selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(rows)})
    spans = [(c.m_min, c.m_max, c.pipeline.main.id) for c in selection.ranges]
    # sqrt(16 * 1024) = 128: the first M behind the geometric mean is 129
    assert spans == [(1, 128, "cutlass/a"), (129, None, "torch/b")]


def test_order_decides_when_one_contender_has_no_row(
    kernels: tuple[KernelSpec, ...], ask: Ask
) -> None:
    table = TuningTable([row("torch/b", 16, 1.0)])
    selection = ask(CONFIG, *kernels, inventory={"tuning": table})
    assert selection.ranges[0].pipeline.main.id == "cutlass/a"


@pytest.mark.parametrize(("us", "winner"), [(9.75, "cutlass/a"), (9.6, "torch/b")])
def test_times_within_three_percent_tie_and_order_decides(
    kernels: tuple[KernelSpec, ...], ask: Ask, us: float, winner: str
) -> None:
    table = TuningTable([row("cutlass/a", 16, 10.0), row("torch/b", 16, us)])
    selection = ask(CONFIG, *kernels, inventory={"tuning": table})
    assert selection.ranges[0].pipeline.main.id == winner


def test_rows_of_a_changed_kernel_are_ignored() -> None:
    stale = row("torch/b", 16, 1.0, digests=(("torch/b", "old"),))
    fresh = row("torch/b", 16, 2.0, digests=(("torch/b", "new"),))
    table = TuningTable([stale, fresh], digests={"torch/b": "new"})
    assert table.us(("triton/q", "torch/b"), "fp8_block128", 4096, 4096, 16) == 2.0
    assert len(table) == 1


def test_the_nearest_shape_counts_and_a_far_one_does_not() -> None:
    table = TuningTable([row("torch/b", 16, 1.0), row("torch/b", 16, 5.0, n=8192)])
    key = ("triton/q", "torch/b"), "fp8_block128"
    assert table.us(*key, 7000, 4096, 16) == 5.0
    assert table.us(*key, 4500, 4000, 16) == 1.0
    assert table.us(*key, 65536, 4096, 16) is None


def test_weight_layouts_are_chosen_by_slowdown_over_the_probed_ms(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",), weight_layout="cutlass:a"),
        consumer("torch/b", "fp8_block128", ("row_major",), weight_layout="torch:b"),
    )
    ms = (1, 16, 64, 256, 1024, 4096)
    # a wins four probes by 5 %, b wins two by a factor of 2: b costs less over all
    rows = [row("cutlass/a", m, 100.0 if m <= 256 else 200.0) for m in ms]
    rows += [row("torch/b", m, 105.0 if m <= 256 else 100.0) for m in ms]
    selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(rows)})
    assert selection.weight_layouts == ("torch:b",)


def test_times_of_different_shapes_are_not_compared(
    kernels: tuple[KernelSpec, ...], ask: Ask
) -> None:
    # b's only row is of a smaller shape: that it took less time there says nothing
    table = TuningTable([row("cutlass/a", 16, 10.0), row("torch/b", 16, 5.0, n=2112)])
    selection = ask(CONFIG, *kernels, inventory={"tuning": table})
    assert selection.ranges[0].pipeline.main.id == "cutlass/a"


def test_times_are_compared_at_the_nearest_shape_that_all_have(
    kernels: tuple[KernelSpec, ...], ask: Ask
) -> None:
    rows = [
        row("cutlass/a", 16, 1.0),
        row("cutlass/a", 16, 9.0, n=2112),
        row("torch/b", 16, 5.0, n=2112),
    ]
    selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(rows)})
    assert selection.ranges[0].pipeline.main.id == "torch/b"


def test_times_are_compared_at_an_m_that_all_have(
    kernels: tuple[KernelSpec, ...], ask: Ask
) -> None:
    # a was also measured at 64; b was not, and its time at 1 is no answer to that
    rows = [
        row("cutlass/a", 1, 10.0),
        row("cutlass/a", 64, 20.0),
        row("cutlass/a", 4096, 500.0),
        row("torch/b", 1, 15.0),
        row("torch/b", 4096, 300.0),
    ]
    selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(rows)})
    spans = [(c.m_min, c.m_max, c.pipeline.main.id) for c in selection.ranges]
    assert spans == [(1, 64, "cutlass/a"), (65, None, "torch/b")]


def test_a_consumer_counts_by_its_fastest_measured_pipeline(
    kernels: tuple[KernelSpec, ...], producer: Make, ask: Ask
) -> None:
    slow = producer("torch/q", "fp8_group128", ("row_major",))
    rows = [
        row("cutlass/a", 16, 10.0),
        row("torch/b", 16, 20.0),
        TuningRow(
            pipeline=("torch/q", "torch/b"), scheme="fp8_block128", n=4096, k=4096, m=16, us=5.0
        ),
    ]
    selection = ask(CONFIG, *kernels, slow, inventory={"tuning": TuningTable(rows)})
    assert selection.ranges[0].pipeline.ids == ("torch/q", "torch/b")


def test_16_bit_formats_share_their_times_and_fp32_has_its_own() -> None:
    half = CONFIG.replace(in_dtype="fp16", out_dtype="fp16")
    assert tuning_key(half) == tuning_key(CONFIG) == ("fp8_block128", 4096, 4096)
    assert tuning_key(CONFIG.replace(out_dtype="fp32"))[0] == "fp8_block128 out=fp32"
    exact = CONFIG.replace(scheme="fp8_block128+exact")
    assert tuning_key(exact)[0] == "fp8_block128+exact"


def test_producers_are_told_apart_by_layout_and_by_all_their_groups() -> None:
    plain = QuantizeConfig(operand="fp8_group128", n=7168)
    aligned = QuantizeConfig(operand="fp8_group128", n=7168, layout="col_major_aligned4")
    assert tuning_key(plain) == ("fp8_group128 row_major", 7168, 7168)
    assert tuning_key(aligned)[0] == "fp8_group128 col_major_aligned4"
    rope = InverseRopeQuantizeConfig(heads=64, head_dim=512, rope_dim=64, groups=8)
    assert tuning_key(rope)[1:] == (4096, 64 * 512)


@pytest.mark.parametrize(
    "wrong",
    [
        {"us": 0.0},
        {"us": -1.0},
        {"us": float("nan")},
        {"us": float("inf")},
        {"us": "fast"},
        {"m": -4},
        {"m": 0},
        {"n": 1.5},
        {"noise": -0.1},
        {"pipeline": ()},
        {"scheme": ""},
    ],
)
def test_a_row_that_no_run_can_have_given_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TuningRow(
            **{"pipeline": ("a/b",), "scheme": "s", "n": 1, "k": 1, "m": 1, "us": 1.0, **wrong}
        )


@given(
    ms=st.sets(st.integers(1, 8192), min_size=1, max_size=6),
    others=st.sets(st.integers(1, 8192), min_size=1, max_size=6),
)
def test_the_winner_changes_only_behind_a_threshold(ms: set[int], others: set[int]) -> None:
    table = TuningTable([row("a/a", m, 1.0 + m) for m in ms] + [row("b/b", m, 2.0) for m in others])
    ids = [("triton/q", "a/a"), ("triton/q", "b/b")]
    key = "fp8_block128", 4096, 4096
    edges = table.thresholds(ids, *key)
    for m in range(1, 600):
        before, here = (table.times([[i] for i in ids], *key, at) for at in (m, m + 1))
        if before != here:
            assert m + 1 in edges
