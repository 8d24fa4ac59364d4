"""A kernel that passes the gate and is wrong later: its time is not told."""

# ruff: noqa: ARG002 - the arguments are the protocol's

from dataclasses import replace
from itertools import count

import pytest
import torch

from quantmux.bench.materials import Materials
from quantmux.bench.rows import BenchCase
from quantmux.bench.run import Plan, run_bench
from quantmux.config import Layout, LinearConfig, RelayoutConfig
from quantmux.ops.linear.reference import linear
from quantmux.ops.quantized import LinearWeights
from quantmux.runtime.context import default_context

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")


@pytest.fixture
def run(cpu, effort):
    def measure(context, *ms, config=CONFIG, **more):
        cases = tuple(BenchCase(config, m) for m in ms)
        plan = Plan(cases, cpu, replace(effort, **more), quick=True)
        return run_bench(plan, context)

    return measure


def rows(report):
    return {row.kernel: row for row in report.rows if row.kind == "kernel"}


@pytest.fixture
def faulty(consumer):
    """Give a kernel whose calls a test makes: ``call(x, weights, index of the copy)``."""

    class Faulty(consumer):
        def __init__(self, call):
            super().__init__(lambda _: 0.0)
            self.call, self.copies = call, count()

        def bind(self, config, prepared, device):
            weights, copy = LinearWeights(**prepared.tensors), next(self.copies)
            return lambda x, *, out=None: self.call(x, weights, copy)  # noqa: ARG005

    return Faulty


def late(after):
    """Wrong from some call on, as a counter that is not reset."""
    calls = count()
    return lambda x, w, _: linear(x, w, CONFIG) * (1.0 if next(calls) < after else 1.1)


def elsewhere(x, w, copy):
    """Wrong in copies other than the first, as an address that is kept."""
    return linear(x, w, CONFIG) * (1.1 if copy % 3 else 1.0)


def kept_result():
    """Gives its first result again, as one that is kept by address or by shape."""
    known = {}
    return lambda x, w, copy: known.setdefault((copy, x.m), linear(x, w, CONFIG))


def copied_result():
    """The same, and copies it, so that nobody can overwrite it."""
    known = {}
    return lambda x, w, copy: known.setdefault((copy, x.m), linear(x, w, CONFIG)).clone()


def one_buffer():
    """Writes all results to one place, which stays in the cache."""
    y = torch.empty(4, 64, dtype=torch.bfloat16)
    return lambda x, w, _: y.copy_(linear(x, w, CONFIG))


def raises_late():
    calls = count()

    def call(x, w, _):
        if next(calls) > 6:
            raise RuntimeError("no more")
        return linear(x, w, CONFIG)

    return call


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (late(6), "relative error"),
        (elsewhere, "of the buffers: relative error"),
        (kept_result(), "NaN"),
        (copied_result(), "relative error"),
        (one_buffer(), "gave the same memory"),
        (raises_late(), "in its rounds: RuntimeError: no more"),
    ],
    ids=["later", "elsewhere", "kept", "copied", "one buffer", "raises"],
)
def test_a_kernel_that_is_wrong_behind_the_gate_has_no_time(
    backend, faulty, consumer, run, call, reason
):
    report = run(backend(faulty=faulty(call), right=consumer(lambda _: 0.0)), 4)
    row = rows(report)["acme/quantize -> acme/faulty"]
    assert (row.status, row.us) == ("failed", None)
    assert reason in row.reason
    assert rows(report)["acme/quantize -> acme/right"].us > 0
    # nor is there a noise of what was bound a second time
    assert [r.kernel for r in report.rows if r.kind == "aa" and "faulty" in r.kernel] == []


def test_a_consumer_alone_is_looked_at_again_too(backend, faulty, run):
    report = run(backend(faulty=faulty(late(6))), 4, gemm=True)
    failed = {row.part for row in report.failed}
    assert failed == {"pipeline", "gemm"}


def test_a_consumer_alone_has_no_time_when_its_pipeline_is_wrong_on_other_numbers(
    backend, faulty, run
):
    report = run(backend(faulty=faulty(copied_result())), 4, gemm=True)
    assert {(row.part, row.us) for row in report.failed} == {("pipeline", None), ("gemm", None)}


def test_results_that_differ_within_the_bounds_pass(backend, faulty, run):
    """Sums in another order each time: no two results alike, all of them right."""
    calls = count()

    def call(x, w, _):
        y = linear(x, w, CONFIG)
        bits = y.view(torch.int16)
        bits[0, next(calls) % 64] ^= 1
        return y

    report = run(backend(loose=faulty(call)), 4)
    assert report.failed == ()
    assert all(row.us > 0 for row in report.rows)


@pytest.mark.parametrize(
    ("operand", "source", "target"),
    [("fp8_group128", "row_major", "col_major"), ("nvfp4", "swizzled_128x4", "row_major")],
)
def test_what_a_result_shares_with_its_input_is_not_overwritten(run, operand, source, target):
    """A relayout moves scales and keeps the data where they are."""
    source, target = (Layout(scales=scales, padded_n=256) for scales in (source, target))
    config = RelayoutConfig(operand=operand, n=256, source=source, target=target)
    report = run(default_context(), 16, config=config)
    assert report.failed == ()
    assert any(row.us for row in report.rows)


@pytest.mark.parametrize("scheme", ["fp8_tensor", "fp8_channel_token", "int8_channel_token"])
def test_the_kernels_of_torch_pass_on_other_numbers(run, scheme):
    config = LinearConfig(out_features=64, in_features=128, scheme=scheme, bias=True)
    report = run(default_context(), 3, config=config, gemm=True)
    assert report.failed == ()


def test_other_numbers_are_other_numbers_in_every_copy(cpu):
    materials = Materials(CONFIG, cpu)
    inputs = materials.inputs(4, 3)
    (first,) = inputs[0].args
    before, address = first.clone(), first.data_ptr()
    materials.renew(inputs, 4)
    assert first.data_ptr() == address
    assert not torch.equal(first, before)
    assert all(torch.equal(call.args[0], first) for call in inputs)
