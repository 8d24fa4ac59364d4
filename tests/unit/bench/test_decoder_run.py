"""Oracle and rows: sums, losses, who is the best single backend, and a step that disagrees."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from quantmux.bench.decoder.model import Form
from quantmux.bench.decoder.oracle import time_linears
from quantmux.bench.decoder.rows import DecoderReport, OracleLine, oracle_sums
from quantmux.bench.decoder.run import BEST, DecoderPlan, best_backend, run_decoder
from quantmux.bench.decoder.shapes import TINY_QWEN3, Gqa
from quantmux.bench.decoder.state import StepCase
from quantmux.bench.decoder.variants import Builder, Variant
from quantmux.bench.decoder.weights import DrawnWeights
from quantmux.config.policy_context import use_policy
from quantmux.errors import ConfigError
from quantmux.runtime.context import default_context

SHAPE = replace(
    TINY_QWEN3,
    hidden=64,
    attention=Gqa(heads=2, kv_heads=1, head_dim=32, theta=1e4),
    mlps=(64,),
)


@pytest.fixture(autouse=True)
def _no_ceilings(monkeypatch):
    # they take seconds on a host, and nothing here is compared with them
    name = "quantmux.bench.decoder.run.measure_ceilings"
    monkeypatch.setattr(name, lambda *_, **__: {"copy_gb_s": 9.0})


def line(n, m, picked, best, here=None, **more):
    return OracleLine(
        n=n, k=64, m=m, count=more.pop("count", 1), picked="a", picked_us=picked, best="b",
        best_us=best, best_here="b", best_here_us=here or best,
        by_backend=more.pop("by_backend", {"b": best}), **more,
    )  # fmt: skip


def report_of(lines, served):
    return DecoderReport(
        device="cpu", title="CPU", date="2026-11-21", versions={}, model="tiny", scheme="s",
        step={}, means_nothing=True, oracle=lines, served={name: {} for name in served},
    )  # fmt: skip


def test_linears_are_added_up_as_often_as_they_stand_in_the_step():
    lines = [line(8, 1, 12.0, 10.0, count=4), line(16, 1, 20.0, 20.0, here=25.0, count=2)]
    (total,) = oracle_sums(lines)
    assert (total.picked_us, total.best_us, total.best_here_us) == (88.0, 80.0, 90.0)
    assert total.loss == pytest.approx(0.1)


def test_a_pick_without_a_time_is_in_no_sum_and_counted():
    (total,) = oracle_sums([line(8, 1, None, 10.0), line(16, 1, 22.0, 20.0)])
    assert (total.picked_us, total.best_us, total.missing) == (22.0, 20.0, 1)


def test_a_backend_that_lacks_a_linear_has_no_sum():
    lines = [
        line(8, 1, 1.0, 1.0, by_backend={"b": 1.0, "c": 2.0}),
        line(16, 1, 1.0, 1.0, by_backend={"b": 3.0}),
    ]
    assert oracle_sums(lines)[0].by_backend == {"b": 4.0}


def test_the_best_single_backend_is_the_fastest_over_all_m_that_can_run_alone():
    lines = [
        line(8, 1, 1.0, 1.0, by_backend={"a": 1.0, "b": 2.0, "c": 0.1}),
        line(8, 64, 1.0, 1.0, by_backend={"a": 9.0, "b": 3.0, "c": 0.1}),
    ]
    assert best_backend(report_of(lines, ("a", "b", "selection"))) == "b"
    assert best_backend(report_of([], ("a",))) is None


def test_a_backend_whose_pipelines_are_all_its_own_goes_before_one_with_products_only():
    lines = [
        line(8, 1, 1.0, 1.0, by_backend={"a": 3.0, "b": 2.0}, alone={"a": 3.0}),
        line(16, 1, 1.0, 1.0, by_backend={"a": 3.0, "b": 2.0}, alone={"a": 3.0, "b": 2.0}),
    ]
    assert oracle_sums(lines)[0].alone == {"a": 6.0}
    assert best_backend(report_of(lines, ("a", "b"))) == "a"


def test_the_oracle_is_the_fastest_pipeline_and_the_pick_what_is_bound(
    backend, consumer, cpu, effort
):
    """By the order "first" is taken; "second" is ten times as fast."""
    context = backend(first=consumer(lambda _: 5000.0), second=consumer(lambda _: 500.0))
    weights = DrawnWeights(SHAPE, "fp8_channel_token", torch.device("cpu"), merged=True)
    with use_policy(self_check="never"):  # these kernels take no output of the caller's
        chosen = Builder(SHAPE, Form(), weights, cpu, context).selection()
    lines, rows = time_linears(
        chosen, SHAPE.counted(merged=True), (2,), context=context, device=cpu, effort=effort,
        ceilings={},
    )  # fmt: skip
    assert {(x.n, x.k) for x in lines} == set(SHAPE.counted(merged=True))
    for found in lines:
        assert found.picked == "acme/quantize -> acme/first"
        assert found.best == found.best_here == "acme/quantize -> acme/second"
        assert found.loss > 2
    assert all(row.status == "ok" for row in rows)


def plan_of(cpu, effort, **more):
    return DecoderPlan(
        shape=SHAPE, scheme="fp8_channel_token", form=Form(), cases=(StepCase("decode", 2),),
        device=cpu, effort=replace(effort, rounds=2), kv_length=8, backend="aot_eager",
        with_oracle=False, compile_for=(), **more,
    )  # fmt: skip


def test_every_variant_is_timed_and_the_selection_twice(cpu, effort):
    told = []
    plan = plan_of(cpu, effort)
    report = run_decoder(plan, default_context(), told.append)
    kernels = [row.kernel for row in report.rows]
    assert kernels == ["bf16", "torch", "selection", "selection again"]
    assert all(row.us > 0 and row.ratio > 0 and row.status == "ok" for row in report.rows)
    assert report.rows[0].ratio == 1.0
    assert report.rows[-1].aa_noise is not None
    assert report.skipped["cutlass"]
    assert set(report.served) == {"torch", "selection", "selection again"}
    data = report.to_dict()
    assert data["means_nothing"] is True
    assert {row["op"] for row in data["rows"]} == {"decoder_step"}
    assert {"decode M=2", "weights"} <= set(told)


def test_who_is_denied_is_told_apart_from_who_cannot_serve(cpu, effort):
    plan = plan_of(cpu, effort, variants=("cutlass", "flashinfer"))
    with use_policy(deny=["cutlass"]):
        report = run_decoder(plan, default_context())
    assert report.denied == {"cutlass": "cutlass"}
    assert list(report.skipped) == ["flashinfer"]
    data = report.to_dict()
    assert (data["denied"], data["policy"]["deny"]) == ({"cutlass": "cutlass"}, ["cutlass"])
    assert data["policy"]["order"]


def test_the_best_single_backend_has_the_pass_too(cpu, effort, monkeypatch):
    monkeypatch.setattr("quantmux.bench.decoder.run.best_backend", lambda _: "torch")
    plan = replace(plan_of(cpu, effort), compile_for=(BEST, "selection"))
    report = run_decoder(plan, default_context())
    modes = {(row.kernel, row.mode) for row in report.rows if row.us}
    assert modes >= {("torch", "compiled"), ("torch", "fused"), ("selection", "fused")}
    assert set(report.protocol["fused"]) == {"torch", "selection"}


def test_a_backend_alone_fuses_by_its_own_kernels(cpu):
    weights = DrawnWeights(SHAPE, "fp8_channel_token", torch.device("cpu"), merged=True)
    context = default_context()
    with use_policy(deny=["cutlass/linear_fp8"]):
        alone = Builder(SHAPE, Form(), weights, cpu, context).alone("torch", (2,))
    others = {s.id for s in context.registry.kernels if s.backend != "torch"}
    assert others
    assert set(alone.fusing.deny) == others | {"cutlass/linear_fp8"}


def test_a_variant_that_disagrees_is_not_timed(cpu, effort, monkeypatch):
    selection = Builder.selection

    def spoiled(self, name="selection"):
        found = selection(self, name)

        class Spoiled(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return self.inner(x) * 1.3

        if name == "selection":
            mlp = found.model.blocks[0].mlp
            mlp.down = Spoiled(mlp.down)
        return found

    monkeypatch.setattr(Builder, "selection", spoiled)
    report = run_decoder(plan_of(cpu, effort), default_context())
    (bad,) = report.failed
    assert (bad.kernel, bad.us) == ("selection", None)
    assert "allowed" in bad.reason
    assert {row.kernel for row in report.rows if row.us} >= {"bf16", "torch"}


def test_a_variant_that_fails_in_its_rounds_has_no_time(cpu, effort, monkeypatch):
    calls = {"n": 0}
    forward = nn.Linear.forward

    def failing(self, x):
        calls["n"] += 1
        if calls["n"] > 20:  # it was checked, and warm
            raise RuntimeError("out of luck")
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", failing)
    report = run_decoder(plan_of(cpu, effort), default_context())
    bad = {row.kernel: row.reason for row in report.failed}
    assert list(bad) == ["bf16"]
    assert "out of luck" in bad["bf16"]
    assert next(row for row in report.rows if row.kernel == "selection").ratio is None


def test_what_is_compiled_is_one_graph_and_its_fusions_are_reported(cpu, effort):
    plan = replace(plan_of(cpu, effort, variants=("bf16",)), compile_for=("bf16", "selection"))
    report = run_decoder(plan, default_context())
    modes = {(row.kernel, row.mode) for row in report.rows if row.us}
    assert modes >= {("bf16", "compiled"), ("selection", "compiled"), ("selection", "fused")}
    assert ("bf16", "fused") not in modes
    assert report.compile_text


def test_an_interrupted_run_keeps_what_was_timed(cpu, effort):
    plan = plan_of(cpu, effort)
    plan = replace(plan, cases=(*plan.cases, StepCase("decode", 3)))

    def stop(what):
        if what == "decode M=3":
            raise KeyboardInterrupt

    report = run_decoder(plan, default_context(), stop)
    assert report.interrupted
    assert {row.m for row in report.rows} == {2}
    assert all(row.us for row in report.rows)
    assert not run_decoder(plan_of(cpu, effort), default_context()).interrupted


def test_a_variant_that_is_not_known_is_refused(cpu, effort):
    with pytest.raises(ConfigError, match="variants: bf16"):
        run_decoder(plan_of(cpu, effort, variants=("vllm",)), default_context())


def test_the_best_backend_stands_for_a_name_and_without_a_run_for_none(cpu, effort):
    plan = replace(plan_of(cpu, effort), compile_for=(BEST,))
    assert plan.without_compile().compile_for == ()
    report = run_decoder(plan, default_context())  # no oracle: nobody is known to be the best
    assert {row.mode for row in report.rows} == {"eager"}


def test_a_variant_lists_its_linears_by_name(cpu):
    weights = DrawnWeights(SHAPE, "fp8_channel_token", torch.device("cpu"), merged=False)
    builder = Builder(SHAPE, Form(merged=False), weights, cpu, default_context())
    found = builder.selection()
    assert isinstance(found, Variant)
    names = ["q", "k", "v", "o", "gate_up", "down"]
    assert sorted(found.linears()) == sorted(f"layers.0.{name}" for name in names)
