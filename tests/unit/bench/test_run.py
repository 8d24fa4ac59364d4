"""A run: what is timed, what is refused, and what the report says."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from quantmux.bench.materials import Materials
from quantmux.bench.peers.environment import PeerEnv, run_there
from quantmux.bench.peers.known import PEERS, here, peers_of
from quantmux.bench.result_file import write_report
from quantmux.bench.rows import BenchCase, Report, Row, with_peers
from quantmux.bench.run import Plan, run_bench
from quantmux.config import LinearConfig, QuantizeConfig
from quantmux.errors import ConfigError

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")
KEYS = {
    "op", "case", "kernel", "us", "gb_s", "tflops", "pct_of_ceiling", "peer", "peer_us", "ratio",
    "aa_noise", "us_min", "us_max", "warm_us", "host_us", "pipeline", "n", "k", "m", "scheme",
}  # fmt: skip


def cases(*ms, config=CONFIG):
    return tuple(BenchCase(config, m) for m in ms)


@pytest.fixture
def run(cpu, effort):
    def measure(context, *ms, config=CONFIG, **more):
        given = {"effort": effort, "quick": True, **more}
        plan = Plan(cases=cases(*ms, config=config), device=cpu, **given)
        return run_bench(plan, context)

    return measure


def kernels(report, kind="kernel"):
    return {row.kernel: row for row in report.rows if row.kind == kind}


def test_every_pipeline_that_competes_is_timed_and_its_time_is_that_of_the_kernel(
    backend, consumer, run
):
    context = backend(slow=consumer(lambda _: 6000.0), fast=consumer(lambda _: 0.0))
    rows = kernels(run(context, 4))
    assert set(rows) == {"acme/quantize -> acme/slow", "acme/quantize -> acme/fast"}
    slow, fast = rows["acme/quantize -> acme/slow"], rows["acme/quantize -> acme/fast"]
    assert slow.us >= slow.us_min >= 6000.0
    assert fast.us < slow.us
    assert slow.pipeline == ("acme/quantize", "acme/slow")


def test_a_case_has_a_row_of_a_pipeline_bound_twice(backend, consumer, run):
    report = run(backend(gemm=consumer(lambda _: 2000.0)), 4)
    second = kernels(report, "aa")
    assert set(second) == {"acme/quantize -> acme/gemm"}
    noise = report.noise_of(report.rows[0].case)
    assert noise is not None
    assert noise >= 0.0
    assert all(row.aa_noise == noise for row in report.rows)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda y: y * 1.1, "relative error"),
        (torch.zeros_like, "relative error"),
        (lambda y: torch.full_like(y, torch.nan), "NaN"),
        (lambda y: y[:, :-1], "shape"),
    ],
)
def test_a_kernel_that_disagrees_is_not_timed(backend, consumer, run, spoil, reason):
    wrong = consumer(lambda _: 0.0, spoil)
    report = run(backend(wrong=wrong, right=consumer(lambda _: 0.0)), 4)
    row = kernels(report)["acme/quantize -> acme/wrong"]
    assert (row.status, row.us) == ("failed", None)
    assert reason in row.reason
    assert wrong.calls == 1  # it was looked at, and never again
    assert kernels(report)["acme/quantize -> acme/right"].us > 0
    assert report.failed == (row,)


def test_a_kernel_that_raises_costs_its_own_row_only(backend, consumer, run):
    def fail(_):
        raise RuntimeError("no such luck")

    report = run(backend(bad=consumer(fail), good=consumer(lambda _: 0.0)), 4)
    assert "no such luck" in kernels(report)["acme/quantize -> acme/bad"].reason
    assert kernels(report)["acme/quantize -> acme/good"].us > 0


def test_a_case_that_does_not_fit_in_memory_costs_its_own_row_only(
    backend, consumer, run, monkeypatch
):
    inputs = Materials.inputs

    def scarce(self, m, count):
        if m == 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs(self, m, count)

    monkeypatch.setattr(Materials, "inputs", scarce)
    report = run(backend(gemm=consumer(lambda _: 0.0)), 1024, 4)
    assert [(row.m, "out of memory" in row.reason) for row in report.failed] == [(1024, True)]
    assert kernels(report)["acme/quantize -> acme/gemm"].m == 4


def test_many_rows_are_compared_by_some_of_them_and_the_row_says_so(
    backend, consumer, run, monkeypatch
):
    monkeypatch.setattr("quantmux.bench.gate._HOST_FLOPS", 5 * 2 * 64 * 128)
    good, bad = consumer(lambda _: 0.0), consumer(lambda _: 0.0, lambda y: y * 1.1)
    rows = kernels(run(backend(good=good, bad=bad), 32))
    assert "5 of 32 rows" in rows["acme/quantize -> acme/good"].note
    assert rows["acme/quantize -> acme/bad"].status == "failed"


def test_a_consumer_alone_is_faster_than_with_its_producer(backend, consumer, run, effort):
    context = backend(gemm=consumer(lambda _: 0.0))
    report = run(context, 64, effort=replace(effort, gemm=True))
    parts = {row.part: row for row in report.rows if row.kind == "kernel"}
    assert parts["gemm"].kernel == "acme/gemm"
    assert parts["gemm"].us_min < parts["pipeline"].us_min


def test_warm_times_are_taken_when_asked(backend, consumer, run, effort):
    context = backend(gemm=consumer(lambda _: 0.0))
    assert kernels(run(context, 4))["acme/quantize -> acme/gemm"].warm_us is None
    report = run(context, 4, effort=replace(effort, warm=True))
    assert kernels(report)["acme/quantize -> acme/gemm"].warm_us > 0


def test_only_the_asked_kernels_are_timed(backend, consumer, run):
    context = backend(a=consumer(lambda _: 0.0), b=consumer(lambda _: 0.0))
    assert set(kernels(run(context, 4, only=("acme/b",)))) == {"acme/quantize -> acme/b"}


def test_producers_are_timed_too(backend, run):
    config = QuantizeConfig(operand="fp8_token", n=256)
    row = kernels(run(backend(), 8, config=config))["acme/quantize"]
    assert row.gb_s > 0
    assert (row.tflops, row.bound) == (0.0, "copy")


def test_a_share_of_the_ceiling_is_that_of_the_same_run(backend, consumer, run):
    report = run(backend(gemm=consumer(lambda _: 1000.0)), 4)
    row = kernels(report)["acme/quantize -> acme/gemm"]
    moved = row.gb_s * row.us * 1e3
    by_copy = moved / report.ceilings["copy_gb_s"] * 1e-3
    # a host has no rate of fp8: the best of those it has bounds it
    best = max(rate for name, rate in report.ceilings.items() if name.endswith("_tflops"))
    by_rate = 2 * 4 * 64 * 128 / best * 1e-6
    assert row.pct_of_ceiling == pytest.approx(100 * max(by_copy, by_rate) / row.us)
    assert row.bound == ("copy" if by_copy > by_rate else "compute")


def test_rotated_bytes_reach_what_was_asked_or_the_row_says_it_is_warm(
    backend, consumer, run, effort
):
    context = backend(gemm=consumer(lambda _: 0.0))
    for copies, is_cold in ((100, True), (2, False)):
        report = run(context, 4, effort=replace(effort, max_copies=copies))
        row = kernels(report)["acme/quantize -> acme/gemm"]
        assert row.cold is is_cold
        assert (row.rotated_mb * 1e6 >= effort.rotate_bytes) is is_cold


def test_the_result_file_holds_what_the_design_says(backend, consumer, run, tmp_path):
    report = run(backend(gemm=consumer(lambda _: 0.0)), 4)
    file = write_report(report, tmp_path, "linear FP8/x")
    assert file.name == f"{report.date}-cpu-linear-fp8-x.json"
    data = json.loads(file.read_text())
    assert set(data) >= {"device", "date", "versions", "ceilings", "rows"}
    assert "copy_gb_s" in data["ceilings"]
    assert data["versions"]["torch"] == version("torch")
    assert all(set(row) >= KEYS for row in data["rows"])
    assert [Row.of(row).kernel for row in data["rows"]] == [row.kernel for row in report.rows]


def test_a_result_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(Report("cpu", "CPU", "2026-01-01", {}, {}), tmp_path / "file" / "sub", "x")


def test_the_ratio_is_to_the_fastest_peer_of_the_same_part():
    def row(kernel, us, kind="peer", part="gemm", env=""):
        return Row(op="linear", case="c", kernel=kernel, kind=kind, part=part, us=us, env=env)

    ours = row("k", 4.0, "kernel"), row("q -> k", 8.0, "kernel", "pipeline")
    peers = row("a", 6.0), row("b", 2.0, env="b"), row("plain", 4.0, part="pipeline")
    found = {r.kernel: r for r in with_peers([*ours, *peers])}
    assert (found["k"].peer, found["k"].ratio) == ("b [b]", 0.5)
    # what needs a quantized input does not stand beside a whole pipeline
    assert (found["q -> k"].peer, found["q -> k"].ratio) == ("plain", 0.5)
    assert found["a"].ratio is None


def test_a_peer_is_timed_beside_the_kernels(backend, consumer, run):
    report = run(backend(gemm=consumer(lambda _: 3000.0)), 16, peers=("bf16", "deepgemm"))
    row = kernels(report)["acme/quantize -> acme/gemm"]
    assert row.peer == "torch bf16"
    assert row.ratio == pytest.approx(kernels(report, "peer")["torch bf16"].us / row.us)
    assert "DeepGEMM" in report.missing


def test_a_peer_in_its_own_process_gives_rows_ceilings_and_noise(backend, run, tmp_path):
    env = PeerEnv.parse(f"bf16={tmp_path}", tuple(PEERS))
    report = run(backend(), 4, environments=(env,))
    (row,) = [r for r in report.rows if r.kind == "peer"]
    assert (row.kernel, row.env, row.m) == ("torch bf16", "bf16", 4)
    assert row.us > 0
    there = report.environments["bf16"]
    assert there["ceilings"]["copy_gb_s"] > 0
    assert there["aa_noise"] is not None
    assert there["versions"]["torch"] == version("torch")


def test_a_peer_process_that_dies_is_told(cpu, effort, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho the library is not here >&2\nexit 3\n")
    fake.chmod(0o755)
    env = PeerEnv("deepgemm", fake)
    found = run_there(env, cases(1), cpu, effort, quick=True)
    assert found == {"error": "exit code 3: the library is not here"}


@pytest.mark.parametrize(
    ("text", "word"),
    [("deepgemm", "PEER=FOLDER"), ("depgemm=/tmp", "did you mean"), ("vllm=/nowhere", "nothing")],
)
def test_a_peer_environment_that_cannot_be_is_refused(text, word):
    with pytest.raises(ConfigError) as error:
        PeerEnv.parse(text, tuple(PEERS))
    assert word in str(error.value)


def test_an_unknown_peer_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean"):
        peers_of(["scaledmm"])


def test_peers_that_are_not_here_say_why(cpu):
    present, missing = here(peers_of(["all"]), cpu)
    assert [peer.name for peer in present] == ["torch bf16"]
    assert all(missing.values())
    assert {"DeepGEMM", "torch._scaled_mm", "vLLM cutlass_scaled_mm"} <= set(missing)
