"""The frame of the seeds: who is timed, who is not, what ratios are made of."""

# ruff: noqa: ARG002 - the arguments are the protocol's

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from quantmux.bench.effort import Effort
from quantmux.bench.gate import Checked
from quantmux.bench.result_file import write_report
from quantmux.bench.seeds import measure as measure_module
from quantmux.bench.seeds.experiment import (
    About,
    Claim,
    Experiment,
    Extra,
    Made,
    Prepared,
    Refused,
    SeedCase,
    Variant,
)
from quantmux.bench.seeds.known import EXPERIMENTS, experiments_of
from quantmux.bench.seeds.measure import measure
from quantmux.bench.seeds.report import NO_NUMBERS
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.run import SeedPlan, run_experiments
from quantmux.bench.seeds.stage import Stage, stage_for
from quantmux.bench.seeds.table import further, lines
from quantmux.bench.watch_host import HostWatch
from quantmux.errors import ConfigError, RunError
from quantmux.ops.spec import Call
from quantmux.registry.manager import Registry
from quantmux.runtime.context import Context
from quantmux.testing.launches import Launch, Launches

KEYS = {
    "op", "case", "kernel", "us", "gb_s", "tflops", "pct_of_ceiling", "peer", "peer_us", "ratio",
    "aa_noise",
}  # fmt: skip
SIZE = 64


class Doubling(Experiment):
    """y = 2·x on copies of x; ways are functions of x, told by the test."""

    about = About(
        name="doubling",
        pull_request=1,
        title="twice x",
        claim=Claim("twice as fast", "nobody", (2.0, 2.0)),
        reach="none",
        extras=(Extra("ms", "ms", 3),),
    )

    def __init__(self, ways, cases=("a",), controls=()):
        self.ways, self.names, self.controls, self.made = ways, cases, controls, []

    def cases(self, stage):
        return [
            SeedCase(name, {"m": i}, name in self.controls) for i, name in enumerate(self.names)
        ]

    def prepare(self, case, stage):
        copies = stage.copies(1.0)
        inputs = [Call((torch.arange(1.0, SIZE + 1),)) for _ in range(copies)]

        def compare(y):
            parts = y if isinstance(y, tuple) else (y,)
            ok = all(torch.equal(part, 2 * inputs[0].args[0]) for part in parts)
            return Checked(ok, "all of it", "" if ok else "it is not twice x")

        def make(name, way):
            def made():
                self.made.append((case.name, name))
                if isinstance(way, Refused):
                    return way
                return Made(
                    tuple(lambda i=i, c=c: way(c.args[0], i) for i, c in enumerate(inputs)),
                    compare,
                    kernel=f"runs {name}",
                )

            return made

        def renew():
            for call in inputs:
                call.args[0].copy_(torch.arange(SIZE, 0.0, -1.0))

        variants = tuple(
            Variant(name, name.split()[0], make(name, way)) for name, way in self.ways.items()
        )
        return Prepared(variants, copies, 1024.0, tuple(inputs), renew)

    def enrich(self, case, row):
        return {"ms": row.us * 1e-3} if row.us else {}


@pytest.fixture
def stage(cpu):
    effort = Effort(rounds=3, rotate_bytes=3, max_copies=3, round_us=100.0)
    return Stage(Context(Registry.of({})), cpu, effort, "tiny", {"copy_gb_s": 10.0})


def right(x, _):
    return 2 * x


def slow(x, _):
    for _ in range(200):
        y = 2 * x
    return y


def by_name(rows):
    return {(row.kernel, row.kind): row for row in rows}


def test_every_variant_has_a_row_and_ratios_are_those_of_the_first_of_each_role(stage):
    ways = {"before slow": slow, "before other": right, "seed": right, "ours": right}
    rows = measure(Doubling(ways), stage)
    found = by_name(rows)
    assert set(found) == {
        ("before slow", "before"), ("before other", "before"), ("seed", "seed"), ("ours", "ours"),
        ("ours", "aa"),
    }  # fmt: skip
    ours, before, seed = (
        found["ours", "ours"],
        found["before slow", "before"],
        found["seed", "seed"],
    )
    assert ours.before_ratio == pytest.approx(before.us / ours.us)
    assert ours.before_ratio > 5  # two hundred products against one
    assert ours.ratio == pytest.approx(seed.us / ours.us)
    assert [row.kernel for row in rows if row.is_main] == ["before slow", "seed", "ours"]
    assert ours.runs == "runs ours"
    assert ours.extra == {"ms": pytest.approx(ours.us * 1e-3)}


def test_ours_is_bound_a_second_time_and_how_far_the_two_are_apart_is_told(stage):
    experiment = Doubling({"seed": right, "ours": right, "ours more": right})
    rows = measure(experiment, stage)
    assert experiment.made.count(("a", "ours")) == 2
    assert experiment.made.count(("a", "ours more")) == 1
    one, two = by_name(rows)["ours", "ours"], by_name(rows)["ours", "aa"]
    assert one.aa_noise == pytest.approx(abs(one.us - two.us) / min(one.us, two.us))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (lambda x, _: 3 * x, "not twice x"),
        (lambda x, _: x[2 * SIZE], "IndexError"),
    ],
)
def test_a_variant_that_disagrees_or_raises_is_not_timed_and_the_others_are(stage, way, reason):
    rows = by_name(measure(Doubling({"before": way, "seed": right, "ours": right}), stage))
    bad = rows["before", "before"]
    assert (bad.status, bad.us, bad.is_main) == ("failed", None, False)
    assert reason in bad.reason
    assert rows["ours", "ours"].us > 0
    assert rows["ours", "ours"].before_ratio is None


def test_a_variant_that_disagrees_at_once_is_never_called_again(stage):
    calls = []

    def wrong(x, _):
        calls.append(1)
        return 3 * x

    measure(Doubling({"before": wrong, "ours": right}), stage)
    assert len(calls) == 1


def test_what_is_wrong_only_in_another_copy_or_on_other_numbers_has_no_time(stage):
    kept = {}

    def remembers(x, i):
        return kept.setdefault(i, 2 * x).clone()

    ways = {
        "before": lambda x, i: 2 * x if i != 1 else 2 * x + 1e-3,
        "seed": remembers,
        "ours": right,
    }
    rows = by_name(measure(Doubling(ways), stage))
    assert "in copy 1" in rows["before", "before"].reason
    assert "after its rounds" in rows["seed", "seed"].reason
    assert rows["ours", "ours"].status == "ok"


def test_of_a_call_with_several_results_each_is_looked_at(stage):
    ways = {
        "before": lambda x, i: (2 * x, 2 * x if i != 2 else 3 * x),
        "ours": lambda x, _: (2 * x, 2 * x),
    }
    rows = by_name(measure(Doubling(ways), stage))
    assert "in copy 2" in rows["before", "before"].reason
    assert rows["ours", "ours"].us > 0


def test_copies_that_give_the_same_memory_are_no_rotation(stage):
    out = torch.empty(SIZE)
    rows = by_name(measure(Doubling({"ours": lambda x, _: torch.mul(x, 2, out=out)}), stage))
    assert "the same memory" in rows["ours", "ours"].reason


def test_a_case_that_cannot_be_prepared_costs_that_case_only(stage):
    experiment = Doubling({"ours": right}, cases=("a", "b"))
    prepare = experiment.prepare

    def scarce(case, stage):
        if case.name == "a":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(case, stage)

    experiment.prepare = scarce
    rows = measure(experiment, stage)
    assert [(row.case, row.status) for row in rows if row.kind != "aa"] == [
        ("a", "failed"),
        ("b", "ok"),
    ]
    assert "out of memory" in rows[0].reason


def test_a_variant_that_refuses_a_case_is_a_row_with_the_reason_and_no_failure(stage):
    report = run_experiments(
        [Doubling({"seed": Refused("it raises ValueError"), "ours": right})],
        stage,
        SeedPlan(stage.device),
    )
    row = next(row for row in report.rows if row.kind == "seed")
    assert (row.status, row.reason, row.us) == ("refused", "it raises ValueError", None)
    assert report.failed == ()


def test_an_experiment_that_raises_costs_itself_only(stage):
    broken, whole = Doubling({"ours": right}), Doubling({"ours": right})
    broken.about = replace(Doubling.about, name="broken")
    broken.run = lambda *_: {}["a key"]
    report = run_experiments([broken, whole], stage, SeedPlan(stage.device))
    assert "KeyError" in report.not_run["broken"]
    assert list(report.told) == ["doubling"]
    assert report.rows


def test_mean_ratios_leave_controls_out(stage):
    experiment = Doubling({"before": right, "ours": right}, cases=("a", "b", "c"), controls=("c",))
    report = run_experiments([experiment], stage, SeedPlan(stage.device))
    told = {"a": 2.0, "b": 8.0, "c": 1000.0}
    report.rows = [
        replace(row, before_ratio=told[row.case] if row.kind == "ours" else 1.0)
        for row in report.rows
    ]
    found = report.summary("doubling")
    assert found["before"] == pytest.approx(4.0)
    assert (found["least_before"], found["most_before"], found["cases"]) == (2.0, 8.0, 2)


def test_kernels_are_counted_after_all_times_were_taken(stage, monkeypatch):
    order = []
    gpu = SimpleNamespace(is_cuda=True, torch_name="cpu", name="gpu")
    monkeypatch.setattr(
        measure_module, "cuda_watch", lambda calls: (HostWatch(calls, round_us=50.0), "")
    )
    monkeypatch.setattr(measure_module, "host_us", lambda *_, **__: order.append("timed") or 7.0)

    def profiled(call, **_):
        order.append("counted")
        assert torch.equal(call(), 2 * torch.arange(1.0, SIZE + 1))
        return Launches((tuple(map(Launch, ("fill", "gemm", "gemm"))),) * 2)

    monkeypatch.setattr(measure_module, "launches", profiled)
    experiment = Doubling({"before": right, "ours": right}, cases=("a", "b"))
    rows = measure(experiment, replace(stage, device=gpu))
    assert order.index("counted") > max(i for i, what in enumerate(order) if what == "timed")
    ours = by_name(rows)["ours", "ours"]
    assert (ours.launches, ours.launched, ours.host_us) == (3, {"fill": 1, "gemm": 2}, 7.0)
    assert by_name(rows)["ours", "aa"].launches == 3


@pytest.fixture
def gpu(stage, monkeypatch):
    """A stage that times and counts as on a GPU, with the host's clock."""
    profile = SimpleNamespace(is_cuda=True, torch_name="cpu", name="gpu")
    monkeypatch.setattr(
        measure_module, "cuda_watch", lambda calls: (HostWatch(calls, round_us=50.0), "")
    )
    monkeypatch.setattr(measure_module, "host_us", lambda *_, **__: 7.0)
    return replace(stage, device=profile)


def test_a_number_of_kernels_that_differs_from_call_to_call_is_told_as_it_is(gpu, monkeypatch):
    calls = (Launch("once"), Launch("gemm")), (Launch("gemm"),)
    monkeypatch.setattr(measure_module, "launches", lambda _, **__: Launches(calls))
    row = by_name(measure(Doubling({"ours": right}), gpu))["ours", "ours"]
    assert (row.launches, row.launched) == (1.5, {"once": 0.5, "gemm": 1})


def test_host_times_are_taken_in_turns_and_one_that_was_held_up_does_not_count(gpu, monkeypatch):
    told = iter([5.0, 50.0, 9.0, 500.0, 51.0, 9.0, 6.0, 9000.0, 9.0])
    monkeypatch.setattr(measure_module, "host_us", lambda *_, **__: next(told))
    monkeypatch.setattr(measure_module, "launches", lambda _, **__: Launches(((),)))
    rows = by_name(measure(Doubling({"before": right, "ours": right}), gpu))
    assert rows["before", "before"].host_us == 6.0
    assert rows["ours", "ours"].host_us == 51.0


def test_a_profiler_that_fails_costs_the_number_of_kernels_and_not_the_time(
    gpu, monkeypatch, caplog
):
    def fails(_, **__):
        raise RunError("the profiler never counted the same twice")

    monkeypatch.setattr(measure_module, "launches", fails)
    row = by_name(measure(Doubling({"ours": right}), gpu))["ours", "ours"]
    assert (row.status, row.launches) == ("ok", None)
    assert row.us > 0
    assert "never counted the same" in caplog.text


def test_rows_are_written_and_read_again(stage, tmp_path):
    report = run_experiments(
        [Doubling({"before": slow, "seed": right, "ours": right})], stage, SeedPlan(stage.device)
    )
    data = json.loads(write_report(report, tmp_path, "seeds").read_text())
    assert data["figures"] == NO_NUMBERS
    assert data["experiments"]["doubling"]["claim"]["figure"] == "twice as fast"
    assert all(set(row) >= KEYS for row in data["rows"])
    again = [SeedRow.of({**row, "of_a_later_version": 1}) for row in data["rows"]]
    assert [row.to_dict() for row in again] == data["rows"]
    assert {row.op for row in again} == {"seed:doubling"}


def test_a_line_of_the_table_holds_the_three_and_the_rest_stands_beside(stage):
    ways = {"before": right, "before b": slow, "seed": Refused("no"), "ours": right}
    rows = measure(Doubling(ways), stage)
    (line,) = lines(rows)
    assert (line.before.kernel, line.seed, line.ours.kernel) == ("before", None, "ours")
    assert [row.reason for row in line.untimed] == ["no"]
    (other,) = further(rows)
    assert (other.name, other.cases) == ("before b", 1)
    assert other.ratio == pytest.approx(line.further[0].us / line.ours.us)


def test_every_experiment_says_what_it_is_under_its_own_name():
    for name, experiment in zip(EXPERIMENTS, experiments_of(), strict=True):
        about = experiment.about
        assert about.name == name
        assert all((about.title, about.claim.figure, about.claim.measured, about.reach))
        assert about.pull_request in (43677, 42651, 32996, 42774, 42849)


def test_an_experiment_that_is_not_known_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="placeholder"):
        experiments_of(["placehoder"])


def test_every_experiment_has_cases_for_every_size(stage):
    for experiment in experiments_of():
        sizes = {size: len(experiment.cases(replace(stage, size=size))) for size in
                 ("tiny", "quick", "full")}  # fmt: skip
        assert 1 <= sizes["tiny"] <= sizes["full"]
        assert 1 <= sizes["quick"] <= sizes["full"]


def test_a_host_gets_the_tiny_form_and_a_gpu_the_whole_one(cpu):
    context = Context(Registry.of({}))
    assert stage_for(context, cpu).size == "tiny"
    gpu = SimpleNamespace(is_cuda=True, l2_mib=60)
    assert stage_for(context, gpu).size == "full"
    assert stage_for(context, gpu).effort.rotate_bytes == 5 * 60 << 20
    assert stage_for(context, gpu, quick=True).size == "quick"
