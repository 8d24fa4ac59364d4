"""Measured times: look-up, thresholds, and when they decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmux.config import LinearConfig
from quantmux.dispatch import Selection, TuningRow, TuningTable
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
