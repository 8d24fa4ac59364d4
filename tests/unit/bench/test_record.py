"""From measuring to selecting: times are recorded, and selection ranks by them."""

import dataclasses
import json
from dataclasses import replace

import pytest

from quantmux.bench.record import PACKAGE, record
from quantmux.bench.rows import BenchCase, Report, Row
from quantmux.bench.run import Plan, run_bench
from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.capability.profiles import PROFILES
from quantmux.config import LinearConfig
from quantmux.errors import ConfigError
from quantmux.registry.ledger import record_evidence
from quantmux.registry.user_folder import user_folder
from quantmux.runtime.context import Context

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")


@pytest.fixture(autouse=True)
def _no_ceilings(monkeypatch):
    # they take seconds on a host, and nothing here is compared with them
    monkeypatch.setattr("quantmux.bench.run.measure_ceilings", lambda *_, **__: {"copy_gb_s": 9.0})


@pytest.fixture
def context(backend, consumer):
    """Two linears: "steady" takes 4 ms, "growing" 0.1 ms a row."""
    return backend(growing=consumer(lambda m: 100.0 * m), steady=consumer(lambda _: 4000.0))


@pytest.fixture
def measured(context, cpu, effort):
    plan = Plan(tuple(BenchCase(CONFIG, m) for m in (1, 128)), cpu, effort)
    return run_bench(plan, context), plan.cases


def winners(context, cpu):
    # a context of its own: an inventory is gathered once
    fresh = Context(context.registry)
    ranges = fresh.select(CONFIG, cpu).ranges
    return [(c.m_min, c.m_max, c.pipeline.main.id) for c in ranges]


def test_selection_ranks_by_what_was_measured_and_the_order_flips_by_m(context, measured, cpu):
    report, cases = measured
    assert winners(context, cpu) == [(1, None, "acme/growing")]
    (file,) = record(report, cases, context.registry, cpu)
    assert file == user_folder() / "tuning" / "cpu.json"
    # sqrt(1 * 128) = 11.3
    assert winners(context, cpu) == [(1, 11, "acme/growing"), (12, None, "acme/steady")]


def test_a_row_holds_what_selection_needs(context, measured, cpu, tmp_path):
    report, cases = measured
    (file,) = record(report, cases, context.registry, cpu, tmp_path)
    assert file == tmp_path / "tuning" / "cpu.json"
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 4
    assert set(rows[0]) == {
        "pipeline", "scheme", "n", "k", "m", "us", "noise", "digests", "versions", "date",
    }  # fmt: skip
    assert set(rows[0]["digests"]) == set(rows[0]["pipeline"])
    assert {(r["n"], r["k"], r["scheme"]) for r in rows} == {(64, 128, "fp8_channel_token")}


def test_a_kernel_that_failed_the_gate_is_not_recorded(backend, consumer, cpu, effort, tmp_path):
    context = backend(
        wrong=consumer(lambda _: 0.0, lambda y: y * 1.1), right=consumer(lambda _: 0.0)
    )
    cases = (BenchCase(CONFIG, 4),)
    report = run_bench(Plan(cases, cpu, effort), context)
    (file,) = record(report, cases, context.registry, cpu, tmp_path)
    rows = json.loads(file.read_text())["rows"]
    assert [row["pipeline"][-1] for row in rows] == ["acme/right"]


def test_consumers_alone_peers_and_second_bindings_are_not_recorded(context, cpu, effort, tmp_path):
    cases = (BenchCase(CONFIG, 4),)
    plan = Plan(cases, cpu, replace(effort, gemm=True), peers=("bf16",))
    report = run_bench(plan, context)
    assert len(report.rows) == 6
    (file,) = record(report, cases, context.registry, cpu, tmp_path)
    rows = json.loads(file.read_text())["rows"]
    assert sorted(row["pipeline"] for row in rows) == [
        ["acme/quantize", "acme/growing"],
        ["acme/quantize", "acme/steady"],
    ]
    # kernels alone have the ids of their pipelines: the times must be those of the whole
    whole = {
        row.pipeline: row.us
        for row in report.rows
        if row.kind == "kernel" and row.part == "pipeline"
    }
    assert {tuple(r["pipeline"]): r["us"] for r in rows} == pytest.approx(whole, abs=1e-3)


def test_a_verified_kernel_becomes_measured_and_no_other_does(context, measured, cpu):
    report, cases = measured
    evidence = EvidenceRow(
        kernel="acme/steady",
        digest=context.digest("acme/steady"),
        level=EvidenceLevel.VERIFIED,
        cases=3,
        date="2026-01-01",
    )
    record_evidence([evidence], "cpu", user_folder() / "evidence")
    record(report, cases, context.registry, cpu)
    inventory = Context(context.registry).inventory(cpu)
    assert inventory.level("acme/steady") is EvidenceLevel.MEASURED
    assert inventory.level("acme/growing") is EvidenceLevel.DECLARED


def test_a_quick_run_is_not_recorded(context, measured, cpu):
    report, cases = measured
    report.protocol["quick"] = True
    with pytest.raises(ConfigError, match="quick"):
        record(report, cases, context.registry, cpu)


def test_times_of_a_host_do_not_go_into_a_package(context, measured, cpu):
    report, cases = measured
    with pytest.raises(ConfigError, match="host"):
        record(report, cases, context.registry, cpu, PACKAGE)


def test_a_package_gets_the_pipelines_that_end_in_its_kernel(monkeypatch, context, tmp_path):
    monkeypatch.setattr(type(context.registry), "folder", lambda _, name: tmp_path / name)
    row = Row(
        op="linear",
        case=BenchCase(CONFIG, 4).name,
        kernel="x",
        us=5.0,
        us_min=5.0,
        us_max=5.0,
        m=4,
        pipeline=("acme/quantize", "acme/steady"),
    )
    report = Report("h200", "H200", "2026-11-21", {"triton": "3.6.0"}, {}, [row])
    files = record(report, [BenchCase(CONFIG, 4)], context.registry, PROFILES["h200"], PACKAGE)
    assert files == [tmp_path / "acme" / "tuning" / "h200.json"]


def test_times_of_sources_that_changed_during_the_run_are_not_recorded(
    backend, consumer, cpu, effort, tmp_path, monkeypatch
):
    source = tmp_path / "kernel.py"
    source.write_text("before")

    def edits(_):
        source.write_text("after")
        return 0.0

    context = backend(gemm=consumer(edits))
    registry = context.registry
    monkeypatch.setattr(type(registry), "folder", lambda *_: tmp_path)
    changed = tuple(dataclasses.replace(k, sources=("kernel.py",)) for k in registry.kernels)
    monkeypatch.setattr(registry, "kernels", changed)
    cases = (BenchCase(CONFIG, 4),)
    report = run_bench(Plan(cases, cpu, effort), context)
    assert source.read_text() == "after"
    with pytest.raises(ConfigError, match="not recorded") as caught:
        record(report, cases, registry, cpu, tmp_path / "to")
    assert "sources changed during the run" in caught.value.facts[0]
    assert not (tmp_path / "to").exists()
