"""The tables of the seeds' pages: read from results, and the pages held to them."""

import json
import re

import pytest

from quantmux.bench.seeds.experiment import About, Claim
from quantmux.bench.seeds.known import EXPERIMENTS
from quantmux.bench.seeds.plot import seeds_svg
from quantmux.bench.seeds.ratios import with_ratios
from quantmux.bench.seeds.report import SeedReport, Told
from quantmux.bench.seeds.rows import SeedRow

from .conftest import ROOT, script

RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"<!-- seeds-[a-z]+: ([\w.-]+)")


def pages():
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file for file in files if MARK.search(file.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def markdown():
    return script("seeds_markdown")


def case(name, m, before, seed, ours, **more):
    times = (("before", before, 3), ("seed", seed, 2), ("ours", ours, 1))
    given = [
        SeedRow("silu_mul", name, kind, kind, facts={"m": m}, us=us, host_us=10.0 * n, launches=n,
                aa_noise=0.02, **more)
        for kind, us, n in times
    ]  # fmt: skip
    return with_ratios(given)


def report(*rows):
    found = SeedReport(
        "h200", "NVIDIA H200", "2026-11-21", {"torch": "2.11.0"}, {"copy_gb_s": 4200.0}, "full"
    )
    found.rows = list(rows)
    found.protocol["rounds"] = 7
    found.command = "quantmux bench seeds"
    claim = Claim("about 2x", "its author", (2.0, 2.0))
    about = About("silu_mul", 32996, "what it is", claim, "2.4x")
    found.told["silu_mul"] = Told(about, ("modelled, not measured",), 12.0)
    return json.loads(json.dumps(found.to_dict()))


DATA = report(
    *case("16x1024", 16, 40.0, 20.0, 10.0),
    *case("16x2048", 16, 90.0, 10.0, 10.0),
    *case("aligned", 16, 10.0, 10.0, 10.0, is_control=True),
    *case("512x1024", 512, 300.0, 200.0, 100.0),
    SeedRow("silu_mul", "32x1024", "ours", "ours", status="failed", reason="no"),
)


def test_the_summary_is_of_the_result_and_names_the_reports_figure(markdown):
    text = markdown.summary(DATA, "")
    assert "| `silu_mul` | [#32996](https://github.com/vllm-project/vllm/pull/32996) |" in text
    assert "| **4.76** (3.00 to 9.00) | **1.59** (1.00 to 2.00) | 3.00 | 2.0 % | about 2x |" in text


def test_a_case_shows_its_three_times_and_what_they_launch(markdown):
    text = markdown.cases(DATA, "silu_mul")
    assert (
        "| 16x1024 | 40.00 | 20.00 | 10.00 | 4.00 | 2.00 | 2.0 % | 30 / 20 / 10 | 3 / 2 / 1 |"
        in text
    )
    assert "| aligned (control) | 10.00 |" in text
    assert "| 512x1024 | 300 | 200 | 100 |" in text
    assert "32x1024" not in text


def test_means_by_rows_leave_controls_out(markdown):
    text = markdown.rows(DATA, "silu_mul")
    assert "| 16 | 2 | 6.00 | 1.41 | 4.24 | 2.0 % | 30 / 20 / 10 |" in text
    assert "| 512 | 1 | 3.00 | 2.00 | 1.50 |" in text


def test_a_fresh_process_shows_what_it_compiled_and_who_waited(markdown):
    extra = {
        "variants": 2,
        "stall_ms": 1018.4,
        "later_ms": 137.0,
        "before_calls_ms": 3.2,
        "stall_by_tokens_ms": {"1": 881.4, "13": 137.0},
        "stalled_tokens": [1, 13],
    }
    facts = {"heads": 8, "groups": 1}
    cold = SeedRow("silu_mul", "first calls", "num_tokens pinned", "seed", facts=facts, extra=extra)
    text = markdown.stalls(report(cold), "")
    assert "| 8, 1 | num_tokens pinned | 2 | 1, 13 | 1,018 ms | 137 ms | 3 ms |" in text


def test_a_variant_beside_the_three_stands_with_its_mean_over_ours(markdown):
    given = case("16x1024", 16, 40.0, 20.0, 10.0) + case("32x1024", 32, 40.0, 20.0, 10.0)
    given += [
        SeedRow("silu_mul", row.case, "two kernels", "before", facts=row.facts, us=us, launches=n)
        for row, us, n in ((given[0], 20.0, 2), (given[3], 80.0, 3))
    ]
    (line,) = markdown.also(report(*given), "silu_mul").splitlines()[2:]
    assert line == "| two kernels | before | 2 | 4.00 |  | 2 to 3 |"


def test_what_was_printed_under_a_table_and_where_it_was_measured(markdown):
    assert markdown.remarks(DATA, "silu_mul") == "- modelled, not measured\n"
    text = markdown.run(DATA, "")
    assert text.startswith("NVIDIA H200, 2026-11-21, `quantmux bench seeds`, 12 s; copy 4,200 GB/s")


def test_a_page_without_marks_and_an_experiment_that_was_not_run_are_refused(markdown, tmp_path):
    with pytest.raises(ValueError, match="no <!-- seeds-KIND"):
        markdown.filled("# a page", tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(DATA), encoding="utf-8")
    page = "<!-- seeds-rows: r.json inverse_rope -->\n<!-- end of table -->"
    with pytest.raises(KeyError, match="inverse_rope"):
        markdown.filled(page, tmp_path)
    again = markdown.filled(page.replace("inverse_rope", "silu_mul"), tmp_path)
    assert "| 512 | 1 | 3.00 |" in again
    assert markdown.filled(again, tmp_path) == again


def test_tables_of_the_pages_are_those_of_the_results(markdown):
    found = pages()
    assert ROOT / "docs" / "seeds.md" in found
    for page in found:
        text = page.read_text(encoding="utf-8")
        assert markdown.filled(text, RESULTS) == text, page.name


def test_the_picture_is_of_the_result_that_the_page_names():
    (name,) = set(MARK.findall((ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")))
    data = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    assert data["size"] == "full"
    assert list(data["experiments"]) == list(EXPERIMENTS)
    picture = ROOT / "docs" / "pictures" / "seeds-h200.svg"
    assert seeds_svg(data) == picture.read_text(encoding="utf-8")


def test_the_result_has_the_variants_that_the_readme_names():
    (name,) = set(MARK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    rows = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    cold = [row for row in rows if row["method"] == "process"]
    found = {(row["kernel"], row["extra"]["variants"]) for row in cold}
    assert found == {
        ("nothing pinned", 4),
        ("num_tokens pinned", 2),
        ("quantmux", 1),
        ("quantmux, after warmup()", 0),
    }
