"""The table of the Triton backend: read from its result alone, and its switch of launches."""

import json
import re
import sys
from types import ModuleType

import pytest

from quantmux.bench.contenders import Contender

from .conftest import ROOT, script

PAGE = ROOT / "docs" / "triton-speed.md"


@pytest.fixture(scope="module")
def markdown():
    return script("triton_markdown")


def row(kernel, us, *, kind="kernel", m=16, n=576, k=7168, scheme="fp8_block128", **more):
    blank = {
        "op": "linear",
        "case": f"linear {scheme} N={n} K={k} M={m}",
        "kernel": kernel,
        "kind": kind,
        "us": us,
        "gb_s": 1000.0,
        "tflops": 10.0,
        "pct_of_ceiling": 50.0,
        "aa_noise": None,
        "status": "ok" if us else "failed",
        "reason": "",
        "scheme": scheme,
        "n": n,
        "k": k,
        "m": m,
    }
    return {**blank, **more}


def report(*rows):
    return {
        "title": "NVIDIA H200",
        "date": "2026-11-21",
        "ceilings": {"copy_gb_s": 4268.0, "fp8_tflops": 1400.0, "bf16_tflops": 770.0},
        "versions": {"triton": "3.6.0"},
        "missing": {},
        "protocol": {},
        "rows": list(rows),
    }


def test_a_ratio_is_the_geometric_mean_of_cases_that_both_have_a_time_for(markdown):
    text = markdown.table(
        report(
            row("triton/linear_fp8_block", 4.0),
            row("triton/linear_fp8_block, PDL off", 5.0),
            row("DeepGEMM", 8.0, kind="peer"),
            row("triton/linear_fp8_block", 2.0, m=64),
            row("triton/linear_fp8_block, PDL off", 5.0, m=64),
            row("DeepGEMM", 16.0, kind="peer", m=64),
            row("triton/linear_fp8_block", 1.0, m=1),  # DeepGEMM has no time here
        )
    )
    # (8/4 · 16/2)^½ = 4, and without PDL (8/5 · 16/5)^½
    assert "4.00x DeepGEMM (2.26x with PDL off), 2 cases" in text


def test_of_several_kernels_of_ours_the_fastest_counts(markdown):
    rows = [row("triton/a", 9.0), row("triton/b", 3.0), row("DeepGEMM", 6.0, kind="peer")]
    assert "2.00x DeepGEMM, 1 cases" in markdown.table(report(*rows))


def test_without_pdl_a_kernel_that_never_uses_it_counts_as_well(markdown):
    rows = [
        row("triton/a", 4.0),
        row("triton/a, PDL off", 8.0),
        row("triton/b", 6.0),
        row("DeepGEMM", 12.0, kind="peer"),
    ]
    text = markdown.table(report(*rows))
    assert "3.00x DeepGEMM (2.00x with PDL off), 1 cases" in text
    assert "| 4.00 (6.00) |" in text


def test_large_m_is_held_against_the_fastest_peer_and_not_in_the_small_ones_mean(markdown):
    text = markdown.table(
        report(
            row("triton/linear_fp8_block", 100.0, m=4096),
            row("DeepGEMM", 90.0, kind="peer", m=4096),
            row("torch._scaled_mm fast", 80.0, kind="peer", m=4096),
        )
    )
    assert "block 80 % of the best (80 % at least)" in text
    assert "| geomean ≥ 1.15x DeepGEMM | not measured |" in text


def test_what_failed_is_missing_or_left_out_stands_below_the_table(markdown):
    data = report(row("triton/linear_fp8_block", None, reason="relative error 1"))
    data["missing"] = {"DeepGEMM": "not installed"}
    data["protocol"] = {"left_out": ["w4a16: …"]}
    text = markdown.table(data)
    assert "Not timed: triton/linear_fp8_block on" in text
    assert "relative error 1" in text
    assert "Not here: DeepGEMM: not installed" in text
    assert "Left out by the budget: 1 cases." in text


def test_where_selection_takes_a_slower_kernel_of_ours_is_said(markdown):
    first, second = row("triton/a", 9.0), row("triton/b", 3.0)
    data = report(first, second, row("triton/a", 1.0, m=64), row("triton/b", 2.0, m=64))
    case = first["case"]
    data["protocol"] = {"selected": {case: ["triton/q", "triton/a"]}}
    assert f"`triton/a` in 1 cases where `triton/b` is faster: {case}." in markdown.table(data)
    data["protocol"] = {"selected": {case: ["triton/q", "triton/b"]}}
    assert "Selection took" not in markdown.table(data)


def test_what_was_not_measured_is_said_so(markdown):
    assert markdown.table(report()).count("not measured") == 9


def test_tables_and_picture_of_the_page_are_those_of_the_results_it_names(markdown):
    page = PAGE.read_text(encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    assert markdown.filled(page, results) == page
    (name,) = re.findall(r"picture is of\n?\s*\[.*?\]\(\.\./benchmarks/results/(\S+)\)", page)
    data = json.loads((results / name).read_text(encoding="utf-8"))
    picture = (PAGE.parent / "pictures" / "triton-decode-h200.svg").read_text(encoding="utf-8")
    assert script("triton_picture").picture(data) == picture


def test_every_table_of_a_page_is_replaced_by_that_of_its_own_result(markdown, tmp_path):
    for name, us in (("a.json", 4.0), ("b.json", 2.0)):
        data = report(row("triton/a", us), row("DeepGEMM", 8.0, kind="peer"))
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    end = "old <!-- end of table -->"
    page = f"x <!-- brief: a.json --> {end} y <!-- table: b.json --> {end} z"
    text = markdown.filled(page, tmp_path)
    first, second = text.partition(" y ")[::2]
    assert "2.00x DeepGEMM" in first
    assert "###" not in first
    assert "4.00x DeepGEMM" in second
    assert "###" in second
    assert "old" not in text
    assert markdown.filled(text, tmp_path) == text
    with pytest.raises(ValueError, match="no <!-- table"):
        markdown.filled("nothing", tmp_path)


def test_a_fixed_time_and_a_rate_are_found_again():
    fits = script("triton_fits")
    # 3 µs, and 4000 GB/s: 4 MB take 1 µs
    found = fits.line([(4e6 * us, 3.0 + us) for us in (1.0, 2.0, 7.0)])
    assert found.fixed_us == pytest.approx(3.0)
    assert found.gb_s == pytest.approx(4000.0)
    assert found.worst == pytest.approx(0.0, abs=1e-9)
    assert found.cases == 3


def test_the_line_is_that_of_least_relative_errors():
    fits = script("triton_fits")
    points = [(1e6, 2.0), (2e6, 2.6), (40e6, 12.0)]
    found = fits.line(points)

    def loss(fixed, gb_s):
        return sum(((fixed + x / gb_s * 1e-3 - y) / y) ** 2 for x, y in points)

    least = loss(found.fixed_us, found.gb_s)
    for fixed, gb_s in ((1.01, 1.0), (0.99, 1.0), (1.0, 1.01), (1.0, 0.99)):
        assert loss(found.fixed_us * fixed, found.gb_s * gb_s) > least


@pytest.mark.parametrize("points", [[(1e6, 2.0), (2e6, 3.0)], [(1e6, 2.0), (2e6, 1.5), (3e6, 1.0)]])
def test_no_line_through_two_points_or_where_more_bytes_take_less_time(points):
    assert script("triton_fits").line(points) is None


class Launcher:
    """As the backend's: called, it tells what it would launch."""

    seen: list = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, fn, constexprs, options):
        self.fn, self.constexprs, self.options = fn, constexprs, options

    def __call__(self, grid, *args):
        self.seen.append((self.constexprs, self.options, grid, args))


@pytest.fixture
def pdl(monkeypatch):
    module = ModuleType("quantmux_triton.launcher")
    module.Launcher = type("Launcher", (Launcher,), {"__call__": Launcher.__call__})
    monkeypatch.setitem(sys.modules, "quantmux_triton.launcher", module)
    Launcher.seen.clear()
    return script("triton_twins").Pdl(), module.Launcher


def test_a_launch_without_programmatic_dependence_differs_in_nothing_else(pdl):
    switch, launcher_of = pdl
    options = {"launch_pdl": True, "num_warps": 4}
    launcher = launcher_of("fn", {"PDL": True, "BLOCK": 128}, options)

    def call():
        launcher((3,), "x")

    bound = Contender("triton/x", "gemm", (call,))
    switch.without(bound, pytest.fail).calls[0]()
    call()
    off, on = Launcher.seen
    assert off == ({"PDL": False, "BLOCK": 128}, {"num_warps": 4}, (3,), ("x",))
    assert on == ({"PDL": True, "BLOCK": 128}, options, (3,), ("x",))


def test_whether_a_call_uses_programmatic_dependence_is_seen_at_its_launches(pdl):
    switch, launcher_of = pdl
    with_it = launcher_of("fn", {"PDL": True}, {"launch_pdl": True})
    without = launcher_of("fn", {"PDL": False}, {})
    assert switch.uses(Contender("triton/x", "gemm", (lambda: with_it((1,)),)))
    assert not switch.uses(Contender("triton/y", "gemm", (lambda: without((1,)),)))
