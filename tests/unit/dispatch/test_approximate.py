"""A quantizer that is not bit-equal to the definition stands behind every one that is."""

from collections.abc import Callable
from typing import Any

import pytest

from quantmux.capability.capability import Capability
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.dispatch import Selection
from quantmux.dispatch.explain import explain
from quantmux.dispatch.tuning import TuningRow, TuningTable
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]
Ask = Callable[..., Selection]

TAGS = ("approximate", "finite_only")


def token() -> QuantizeConfig:
    return QuantizeConfig(operand="fp8_token", n=256)


def order(selection: Selection) -> list[str]:
    return [pipeline.ids[0] for pipeline in selection.ranges[0].candidates]


@pytest.mark.parametrize("tag", TAGS)
def test_an_exact_quantizer_of_a_later_backend_goes_first(
    producer: Make, ask: Ask, tag: str
) -> None:
    near = producer("cutlass/near", "fp8_token", ("row_major",), tags={tag})
    exact = producer("triton/exact", "fp8_token", ("row_major",))
    selection = ask(token(), near, exact)
    assert order(selection) == ["triton/exact", "cutlass/near"]
    (reason,) = selection.rejected["cutlass/near"]
    assert reason.code == "outranked"
    assert (reason.hint or "").startswith("approximate:")
    assert "outranked by triton/exact (native) (approximate:" in explain(selection)


def test_a_fallback_finds_an_experimental_exact_quantizer_before_an_approximate_one(
    producer: Make, ask: Ask
) -> None:
    near = producer("cutlass/near", "fp8_token", ("row_major",), tags={"approximate"})
    new = producer("triton/new", "fp8_token", ("row_major",), tags={"experimental"})
    exact = producer("torch/exact", "fp8_token", ("row_major",))
    assert order(ask(token(), near, new, exact)) == ["torch/exact", "triton/new", "cutlass/near"]


def test_an_approximate_quantizer_goes_before_a_lower_tier(producer: Make, ask: Ask) -> None:
    near = producer("cutlass/near", "fp8_token", ("row_major",), tags={"approximate"})
    plain = producer("torch/plain", "fp8_token", ("row_major",), is_reference=True)
    selection = ask(token(), plain, near)
    assert order(selection) == ["cutlass/near", "torch/plain"]
    assert "cutlass/near   [native, approximate]" in explain(selection)
    assert selection.ranges[0].to_dict()["approximate"] is True
    (reason,) = selection.rejected["torch/plain"]
    assert reason.hint is None


def linear_kernels(producer: Make, consumer: Make) -> tuple[KernelSpec, ...]:
    return (
        producer("cutlass/near", "fp8_group128", ("row_major",), tags={"approximate"}),
        producer("triton/exact", "fp8_group128", ("col_major_aligned4",)),
        consumer("cutlass/gemm", "fp8_block128", ("row_major",)),
        consumer("triton/gemm", "fp8_block128", ("col_major_aligned4",)),
    )


def test_a_linear_takes_the_consumer_that_an_exact_quantizer_feeds(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    config = LinearConfig(in_features=1024, out_features=1024, scheme="fp8_block128")
    selection = ask(config, *linear_kernels(producer, consumer))
    assert selection.ranges[0].pipeline.ids == ("triton/exact", "triton/gemm")
    assert (selection.rejected["cutlass/gemm"][0].hint or "").startswith("approximate:")


def test_measured_times_do_not_put_an_approximate_quantizer_first(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    config = LinearConfig(in_features=1024, out_features=1024, scheme="fp8_block128")
    rows = [
        TuningRow(pipeline=ids, scheme="fp8_block128", n=1024, k=1024, m=16, us=us, noise=0.0)
        for ids, us in (
            (("cutlass/near", "cutlass/gemm"), 1.0),
            (("triton/exact", "triton/gemm"), 9.0),
        )
    ]
    stock: dict[str, Any] = {"tuning": TuningTable(rows)}
    selection = ask(config, *linear_kernels(producer, consumer), m=16, inventory=stock)
    assert selection.ranges[0].pipeline.ids == ("triton/exact", "triton/gemm")


def test_a_consumer_with_an_exact_pipeline_too_is_not_called_approximate(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    config = LinearConfig(in_features=1024, out_features=1024, scheme="fp8_block128")
    kernels = (
        *linear_kernels(producer, consumer),
        producer("triton/rows", "fp8_group128", ("row_major",)),
    )
    selection = ask(config, *kernels, order=("triton", "cutlass"))
    assert selection.ranges[0].pipeline.ids == ("triton/exact", "triton/gemm")
    assert selection.rejected["cutlass/gemm"][0].hint is None


def test_tags_other_than_these_two_leave_a_kernel_exact() -> None:
    assert not Capability(arch="any", tags={"experimental", "cuda_graph"}).is_approximate


def test_a_linear_behind_an_approximate_quantizer_may_be_off_by_as_much_as_its_codes(
    producer: Make, consumer: Make, ask: Ask
) -> None:
    near, exact, rows, columns = linear_kernels(producer, consumer)
    config = LinearConfig(in_features=1024, out_features=1024, scheme="fp8_block128")
    behind = ask(config, near, rows).ranges[0].pipeline
    assert behind.rel_tolerance == 0.05
    assert ask(config, exact, columns).ranges[0].pipeline.rel_tolerance is None
    loose = consumer("cutlass/loose", "fp8_block128", ("row_major",), rel_tolerance=0.1)
    assert ask(config, near, loose).ranges[0].pipeline.rel_tolerance == 0.1
