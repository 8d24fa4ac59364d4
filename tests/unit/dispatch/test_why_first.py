"""What an outranked kernel says of the times that decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmux.config import LinearConfig
from quantmux.dispatch import Selection, TuningRow, TuningTable
from quantmux.dispatch.explain import explain
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]
Ask = Callable[..., Selection]

CONFIG = LinearConfig(in_features=4096, out_features=4096, scheme="fp8_block128")


def row(consumer: str, us: float, m: int = 16, producer: str = "triton/q") -> TuningRow:
    return TuningRow(
        pipeline=(producer, consumer), scheme="fp8_block128", n=4096, k=4096, m=m, us=us
    )


@pytest.fixture
def hint(producer: Make, consumer: Make, ask: Ask) -> Callable[..., str | None]:
    kernels = (
        producer("triton/q", "fp8_group128", ("row_major",)),
        producer("triton/slow", "fp8_group128", ("row_major",)),
        consumer("cutlass/a", "fp8_block128", ("row_major",)),
        consumer("torch/b", "fp8_block128", ("row_major",)),
    )

    def of(loser: str, rows: list[TuningRow], **more: Any) -> str | None:
        selection = ask(CONFIG, *kernels, inventory={"tuning": TuningTable(rows)}, **more)
        (reason,) = (r for r in selection.rejected[loser] if r.code == "outranked")
        assert reason.hint is None or reason.hint in explain(selection)
        return reason.hint

    return of


def test_names_both_times_at_the_asked_m(hint: Callable[..., str | None]) -> None:
    rows = [row("cutlass/a", 57.171), row("torch/b", 62.5)]
    assert hint("torch/b", rows, m=16) == "measured 57.17 µs against 62.5 µs"


def test_names_the_fastest_pipeline_of_each(hint: Callable[..., str | None]) -> None:
    rows = [row("cutlass/a", 90), row("torch/b", 62), row("cutlass/a", 50, producer="triton/slow")]
    assert hint("torch/b", rows, m=16) == "measured 50 µs against 62 µs"


def test_a_faster_kernel_that_loses_says_that_it_is_a_tie(hint: Callable[..., str | None]) -> None:
    rows = [row("cutlass/a", 10.2), row("torch/b", 10.0)]
    assert hint("torch/b", rows, m=16) == "measured 10.2 µs against 10 µs, a tie"


def test_says_no_time_where_times_did_not_decide(hint: Callable[..., str | None]) -> None:
    assert hint("torch/b", [row("torch/b", 1.0)], m=16) is None
    # over a range of M there is no one time
    assert hint("torch/b", [row("cutlass/a", 57), row("torch/b", 62)]) is None
