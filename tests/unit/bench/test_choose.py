"""Who competes may be chosen: as few as a table needs, and forms that no selection knows."""

from functools import partial

import pytest

from quantmux.bench.contenders import pipelines_of
from quantmux.bench.gate import check_pipeline
from quantmux.bench.harness import Bench, Entry
from quantmux.bench.rows import BenchCase
from quantmux.config import LinearConfig

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")


@pytest.fixture
def measure(cpu, effort):
    def run(context, choose):
        bench = Bench(context, cpu, effort, {"copy_gb_s": 10.0}, choose=choose)
        return list(bench.run([BenchCase(CONFIG, 4)]))

    return run


def consumers(case, binder, inputs, *, make):
    for pipeline in pipelines_of(case.config, case.m, binder.context, binder.materials.device):
        yield Entry(pipeline.main.id, "gemm", partial(make, pipeline, binder, inputs))


def alone(pipeline, binder, inputs):
    checked = check_pipeline(binder.contender(pipeline, inputs), inputs[0], binder.materials)
    return binder.gemm(pipeline, inputs) if checked.ok else checked.reason


def test_only_those_that_are_chosen_are_timed(backend, consumer, measure):
    context = backend(gemm=consumer(lambda _: 2000.0))
    (row,) = measure(context, partial(consumers, make=alone))
    assert (row.kernel, row.part, row.status) == ("acme/gemm", "gemm", "ok")
    assert row.us >= 2000.0


def test_one_that_disagrees_is_a_row_without_a_time(backend, consumer, measure):
    context = backend(
        right=consumer(lambda _: 0.0), wrong=consumer(lambda _: 0.0, spoil=lambda y: y + 1)
    )
    rows = {row.kernel: row for row in measure(context, partial(consumers, make=alone))}
    assert rows["acme/right"].status == "ok"
    assert rows["acme/wrong"].us is None
    assert "relative error" in rows["acme/wrong"].reason


def test_one_that_cannot_be_bound_costs_only_itself(backend, consumer, measure):
    def broken(pipeline, binder, inputs):
        if pipeline.main.id == "acme/wrong":
            raise RuntimeError("no such tile")
        return alone(pipeline, binder, inputs)

    context = backend(right=consumer(lambda _: 0.0), wrong=consumer(lambda _: 0.0))
    rows = {row.kernel: row for row in measure(context, partial(consumers, make=broken))}
    assert rows["acme/right"].status == "ok"
    assert rows["acme/wrong"].reason == "RuntimeError: no such tile"
