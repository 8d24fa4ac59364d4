"""The tables of the decoder's pages: read from results, and the pages held to them."""

import json
import re

import pytest

from .conftest import ROOT, script

RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"<!-- decoder-[a-z]+: ([\w.-]+) -->")


@pytest.fixture(scope="module")
def markdown():
    return script("decoder_markdown")


def step(m, kernel, mode, us, ratio=None, **more):
    return {
        "op": "decoder_step", "phase": "decode", "m": m, "kernel": kernel, "mode": mode, "us": us,
        "ratio": ratio, "kind": more.get("kind", "kernel"), "aa_noise": 0.01,
    }  # fmt: skip


DATA = {
    "title": "NVIDIA H200", "date": "2026-11-21", "versions": {"torch": "2.11.0"},
    "command": "quantmux bench decoder", "scheme": "fp8_channel_token", "interrupted": True,
    "step": {"layers": 4, "weight_mb": 772.0, "attention": "SDPA"},
    "oracle": [
        {"m": 1, "picked_us": 12.0, "best_us": 10.0, "best_here_us": 11.0, "loss": 0.2,
         "alone": {"slow": 24.0, "fast": 12.6}, "by_backend": {"x": 10.0}},
    ],
    "compile_report": {
        "graphs": 1, "taken": 2, "refused": 1,
        "sites": [
            {"pattern": "silu_mul", "into": [f"blocks.{i}.mlp.down"], "taken": True, "reasons": [],
             "segments": [{"producers": [{"kernels": ["a/silu"]}], "refusals": []}]}
            for i in range(2)
        ] + [
            {"pattern": "rmsnorm", "into": ["blocks.0.q"], "taken": False, "segments": [],
             "reasons": ["nobody offers it"]},
        ],
    },
    "rows": [
        step(1, "bf16", "graph", 100.0, 1.0, kind="peer"),
        step(1, "a", "graph", 90.0, 1.11),
        step(1, "selection", "graph", 80.0, 1.25),
        step(1, "selection", "fused graph", 50.0, 2.0),
        step(1, "selection again", "graph", 40.0, 2.5, kind="aa"),
        {"op": "decoder_linear", "n": 8, "k": 4, "m": 1, "count": 2, "loss": 0.2, "aa_noise": 0.01,
         "picked": "a", "picked_us": 6.0, "best": "b", "best_us": 5.0},
    ],
}  # fmt: skip


def test_every_table_says_what_the_result_says(markdown):
    assert "|  | **selection** | 80 ×1.25 | 50 ×2.00 |" in markdown.steps(DATA)
    assert "selection again" not in markdown.steps(DATA)
    assert "| 1 | 12.0 | 10.0 | 20.0 % | 9.1 % | fast 1.05, slow 2.00 | x 0.833 |" in (
        markdown.oracle(DATA)
    )
    assert "| 8×4 | 1 | 20.0 % | 1.0 % | `a` | 6.0 | `b` | 5.0 |" in markdown.losses(DATA)
    found = markdown.sites(DATA)
    assert "| 2 | silu_mul | `mlp.down` | taken | `a/silu` |" in found
    assert "| 1 | rmsnorm | `q` | refused | nobody offers it |" in found
    assert "interrupted" in markdown.run(DATA)


def test_the_summary_compares_within_one_mode_and_shows_the_noise(markdown):
    """The selection's fused graph, the fastest of all, is in no ratio."""
    found = markdown.summary(DATA)
    assert "µs, graph:" in found
    assert "| decode 1 | 100 | 90 (a) | 80 | 1.25 | 1.125 | - | 1.0 % |" in found


def test_the_pass_is_a_column_of_its_own_for_everybody_who_has_it(markdown):
    modes = ("compiled graph", "fused graph")
    rows = [
        step(1, "bf16", "compiled graph", 100.0, kind="peer"),
        *(step(1, "a", mode, us) for mode, us in zip(modes, (88.0, 84.0), strict=True)),
        *(step(1, "selection", mode, us) for mode, us in zip(modes, (80.0, 50.0), strict=True)),
        step(1, "b", "graph", 1.0),
    ]
    found = markdown.summary({**DATA, "rows": rows})
    assert "µs, compiled graph:" in found
    assert "| a with the pass | selection with the pass |" in found
    assert "| decode 1 | 100 | 88 (a) | 80 | 1.25 | 1.100 | 84 | 50 | 1.0 % |" in found


def test_the_run_says_who_was_denied_and_of_whom_the_oracle_is(markdown):
    assert "The oracle is of x." in markdown.run(DATA)
    old = {**DATA, "command": "quantmux bench decoder --plugins p.toml"}
    assert "does not say what its plugins file denies" in markdown.run(old)
    new = {**old, "denied": {"flashinfer": "flashinfer"}}
    assert "Denied: flashinfer. The oracle is of x." in markdown.run(new)
    assert "does not say" not in markdown.run(new)


def test_a_run_without_losses_and_without_a_pass_says_so(markdown):
    line = {**DATA["rows"][-1], "loss": 0.03}
    assert "No linear of 1" in markdown.losses({**DATA, "rows": [line]})
    assert "Nothing was compiled" in markdown.sites({**DATA, "compile_report": {}})


def test_a_page_without_marks_and_a_table_that_there_is_not_are_refused(markdown, tmp_path):
    with pytest.raises(ValueError, match="no <!-- decoder-KIND"):
        markdown.filled("# a page", tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(DATA), encoding="utf-8")
    with pytest.raises(KeyError, match="picture"):
        markdown.filled("<!-- decoder-picture: r.json -->\n<!-- end of table -->", tmp_path)


def test_tables_of_the_pages_are_those_of_the_results(markdown):
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    found = {file: text for file, text in texts.items() if MARK.search(text)}
    assert ROOT / "docs" / "decoder.md" in found
    for file, text in found.items():
        assert markdown.filled(text, RESULTS) == text, file.name


def test_no_step_of_a_kept_result_failed():
    names = set(MARK.findall((ROOT / "docs" / "decoder.md").read_text(encoding="utf-8")))
    for name in names:
        data = json.loads((RESULTS / name).read_text(encoding="utf-8"))
        assert data["device"] == "h200"
        assert not data["means_nothing"]
        assert all(row.get("status", "ok") == "ok" for row in data["rows"])
