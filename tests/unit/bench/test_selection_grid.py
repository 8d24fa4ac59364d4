"""A grid is measured, judged, kept, and recorded for another run to judge."""

import json
from dataclasses import replace

import pytest

from quantmux.bench.rows import BenchCase
from quantmux.bench.selection.kept import KeptRun, read_run, write_run
from quantmux.bench.selection.measure import GridPlan, measure_grid
from quantmux.bench.selection.result import HELD_OUT, ORDER_ONLY, judged
from quantmux.bench.selection.several import tuning_rows_of
from quantmux.config import LinearConfig
from quantmux.errors import ConfigError
from quantmux.registry.user_folder import user_folder
from quantmux.runtime.context import Context

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")
OTHER = LinearConfig(out_features=64, in_features=192, scheme="fp8_channel_token")


@pytest.fixture(autouse=True)
def _no_ceilings(monkeypatch):
    # they take seconds on a host, and nothing here is compared with them
    name = "quantmux.bench.selection.measure.measure_ceilings"
    monkeypatch.setattr(name, lambda *_, **__: {"copy_gb_s": 9.0})


@pytest.fixture
def context(backend, consumer):
    """Two linears: "steady" takes 8 ms, "growing" 1 ms a row; by the order growing goes first."""
    return backend(growing=consumer(lambda m: 1000.0 * m), steady=consumer(lambda _: 8000.0))


@pytest.fixture
def measure(cpu, effort):
    def run(context, configs=(CONFIG,), ms=(1, 32), **more):
        cases = tuple(BenchCase(config, m) for config in configs for m in ms)
        plan = GridPlan(cases, cpu, replace(effort, rounds=2), **more)
        return KeptRun.of(measure_grid(plan, context), context.registry)

    return run


def picks(result):
    return {(c.k, c.m): (c.pick.ids[-1], c.best.ids[-1]) for c in result.cells}


def test_what_the_order_takes_is_held_against_the_best(context, measure, cpu):
    result = judged(measure(context), context, cpu)
    assert picks(result) == {
        (128, 1): ("acme/growing", "acme/growing"),
        (128, 32): ("acme/growing", "acme/steady"),
    }
    (cell,) = result.qualities[-1].losses
    assert cell.m == 32
    assert cell.loss > 1.0  # 32 ms against 8, more or less: others use this host too
    assert cell.aa_noise is not None
    assert result.rows == 0


def test_times_of_one_run_are_judged_by_another(context, measure, cpu):
    first, second = measure(context), measure(context)
    taught = judged(second, context, cpu, over=first.tuning_rows())
    assert set(picks(taught).values()) == {
        ("acme/growing", "acme/growing"),
        ("acme/steady", "acme/steady"),
    }
    assert taught.qualities[-1].near == 1.0
    assert taught.other_ways[ORDER_ONLY][-1].near == 0.5
    assert judged(second, context, cpu).qualities[-1].near == 0.5


def test_a_shape_is_judged_as_if_nobody_had_measured_it(context, measure, cpu):
    first, second = measure(context, (CONFIG, OTHER)), measure(context, (CONFIG, OTHER))
    rows = first.tuning_rows()
    # both shapes are near each other: each is told by the other's times
    assert judged(second, context, cpu, over=rows).other_ways[HELD_OUT][-1].near == 1.0
    mine = [row for row in rows if row.k == 128]
    held = judged(second, context, cpu, over=mine).other_ways[HELD_OUT][-1]
    missed = {(cell.k, cell.m) for cell in held.losses}
    assert missed == {(128, 32)}


def test_recorded_times_are_what_selection_takes_from_then_on(context, measure, cpu, tmp_path):
    run = measure(context)
    (file,) = run.record(context.registry, tmp_path)
    assert file == tmp_path / "tuning" / "cpu.json"
    run.record(context.registry, user_folder())
    fresh = Context(context.registry)
    ranges = fresh.select(CONFIG, cpu).ranges
    # sqrt(1 * 32) = 5.7
    assert [(c.m_max, c.pipeline.main.id) for c in ranges] == [
        (5, "acme/growing"),
        (None, "acme/steady"),
    ]


def test_a_run_is_read_as_it_was_written(context, measure, cpu, tmp_path):
    run = measure(context)
    result = judged(run, context, cpu)
    write_run(tmp_path / "run.json", result.to_dict())
    again = read_run(tmp_path / "run.json")
    assert again.digests == run.digests
    assert [row.to_dict() for row in again.report.rows] == [r.to_dict() for r in run.report.rows]
    assert picks(judged(again, context, cpu)) == picks(result)
    data = json.loads((tmp_path / "run.json").read_text())
    assert {cell["m"] for cell in data["cells"]} == {1, 32}
    assert data["quality"]["as it is"][0]["losses"] == 1


def test_times_of_another_kernel_are_not_recorded(context, measure, tmp_path):
    run = measure(context, ms=(1,))
    changed = replace(run, digests={**run.digests, "acme/steady": "0" * 16})
    with pytest.raises(ConfigError, match="acme/steady are not recorded"):
        changed.record(context.registry, tmp_path)
    assert not list(tmp_path.iterdir())


def timed(run, factor, **changes):
    """Give a run as if all had taken another time."""
    rows = [replace(row, us=row.us * factor) for row in run.report.rows if row.us]
    return replace(run, report=replace(run.report, rows=rows), **changes)


def test_what_several_runs_timed_is_recorded_by_its_mean(context, measure):
    run = measure(context, ms=(1,))
    own = {row.key: row.us for row in run.tuning_rows()}
    found = {row.key: row.us for row in tuning_rows_of([run, timed(run, 4.0)])}
    assert found == pytest.approx({key: us * 2 for key, us in own.items()}, rel=1e-3)


def test_a_run_that_lacks_a_pipeline_is_no_part_of_the_mean(context, measure):
    run = measure(context, ms=(1,))
    report = replace(run.report, rows=[r for r in run.report.rows if "steady" not in r.kernel])
    short = replace(run, report=report)
    own = {row.key: row.us for row in run.tuning_rows()}
    assert {row.key: row.us for row in tuning_rows_of([timed(short, 4.0), run])} == own
    # and where it is the last, it alone says what there is
    last = tuning_rows_of([run, short])
    assert {row.pipeline[-1] for row in last} == {"acme/growing"}


def test_a_run_of_another_kernel_is_no_part_of_the_mean(context, measure):
    run = measure(context, ms=(1,))
    before = timed(run, 4.0, digests={**run.digests, "acme/steady": "0" * 16})
    own = {row.key: row.us for row in run.tuning_rows()}
    assert {row.key: row.us for row in tuning_rows_of([before, run])} == own


def test_places_that_only_one_run_has_are_kept(context, measure):
    one, other = measure(context, ms=(1,)), measure(context, ms=(32,))
    assert {row.m for row in tuning_rows_of([one, other])} == {1, 32}


def test_times_of_a_quick_run_are_not_recorded(context, measure, tmp_path):
    with pytest.raises(ConfigError, match="quick run"):
        measure(context, ms=(1,), quick=True).record(context.registry, tmp_path)


def test_who_disagrees_with_the_reference_is_never_the_best(backend, consumer, measure, cpu):
    fast = consumer(lambda _: 0.0, spoil=lambda y: y + 1)
    run = measure(backend(growing=consumer(lambda _: 3000.0), wrong=fast), ms=(4,))
    (cell,) = judged(run, backend(growing=consumer(lambda _: 0.0)), cpu).cells
    assert cell.best.ids[-1] == "acme/growing"
    (failed,) = run.report.failed
    assert failed.pipeline[-1] == "acme/wrong"
    assert "relative error" in failed.reason


def test_a_pick_that_disagrees_is_told(backend, consumer, measure, cpu):
    context = backend(
        a_wrong=consumer(lambda _: 0.0, spoil=lambda y: y + 1), right=consumer(lambda _: 900.0)
    )
    (cell,) = judged(measure(context, ms=(4,)), context, cpu).cells
    assert cell.pick is None
    assert "acme/a_wrong has no time: after its rounds: relative error" in cell.problem


def test_who_is_far_behind_takes_two_turns_only(backend, consumer, cpu, effort):
    context = backend(fast=consumer(lambda _: 2000.0), slow=consumer(lambda _: 9000.0))
    plan = GridPlan((BenchCase(CONFIG, 4),), cpu, replace(effort, rounds=3))
    rows = measure_grid(plan, context).rows
    notes = {row.pipeline[-1]: row.note for row in rows if row.kind == "kernel"}
    assert "2 rounds: far behind" in notes["acme/slow"]
    assert "far behind" not in notes["acme/fast"]


def test_what_is_selected_takes_all_turns_however_slow(context, cpu, effort):
    plan = GridPlan((BenchCase(CONFIG, 32),), cpu, replace(effort, rounds=3))
    rows = {(row.kind, row.pipeline[-1]): row for row in measure_grid(plan, context).rows}
    assert "far behind" not in rows["kernel", "acme/growing"].note
    assert ("aa", "acme/growing") in rows


def test_cells_that_do_not_begin_in_time_are_named(context, measure):
    report = measure(context, ms=(1,), seconds=-1.0).report
    assert report.rows == []
    assert report.protocol["left_out"] == [f"{CONFIG} M=1"]
