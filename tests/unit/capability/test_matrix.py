import json

import pytest

from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.capability.matrix import MatrixRow, matrix_dict, matrix_markdown, matrix_text
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection

NO = Rejection(code="arch", field="arch", required="90a | 100f", actual="sm89")
ROWS = [
    MatrixRow("torch/reference", "linear", "torch", "nvfp4", "reference", eligible=True),
    MatrixRow("acme/gemm", "linear", "acme", "nvfp4", None, eligible=False, rejections=(NO, NO)),
    MatrixRow(
        "torch/quantize",
        "quantize",
        "torch",
        "nvfp4",
        "native",
        eligible=True,
        evidence=Evidence(EvidenceLevel.VERIFIED, stale=True, cases=12, worst_error=0.0),
    ),
    MatrixRow("zeta/odd", "linear", "zeta", "nvfp4", None, eligible=False),
]


def test_json_has_the_promised_keys_and_one_order():
    shown = matrix_dict(PROFILES["l40s"], ROWS)
    assert shown == matrix_dict(PROFILES["l40s"], reversed(ROWS))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["device"] == "l40s"
    for row in shown["kernels"]:
        assert set(row) >= {"id", "op", "backend", "scheme", "tier", "eligible", "evidence"}
        assert set(row["evidence"]) >= {"level", "stale", "cases", "worst_error", "date"}
    assert [row["id"] for row in shown["kernels"]] == [
        "torch/reference",
        "acme/gemm",
        "zeta/odd",
        "torch/quantize",
    ]


def test_text_has_aligned_columns_reasons_and_a_summary():
    lines = matrix_text(PROFILES["l40s"], ROWS).splitlines()
    assert lines[0] == "l40s (sm89): 2 of 4 kernels serve (1 native, 1 reference)"
    assert lines[1] == "evidence: 3 declared, 1 stale"
    columns = [lines[3].index(word) for word in ("op", "scheme", "tier", "serves", "evidence")]
    for line in lines[4:8]:
        for column in columns[:-1]:
            assert line[column - 1] == " "
            assert line[column] != " "
    assert "no: arch (needs 90a | 100f, found sm89) +1" in lines[5]
    assert "verified, 12 cases, stale" in lines[7]


def test_markdown_cells_cannot_break_the_table():
    text = matrix_markdown(PROFILES["l40s"], ROWS)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ROWS)
    assert {line.replace("\\|", "").count("|") for line in table} == {7}


def test_what_is_experimental_says_so_beside_its_tier():
    row = MatrixRow("a/new", "linear", "a", "nvfp4", "native", eligible=True, experimental=True)
    known = MatrixRow("a/old", "linear", "a", "nvfp4", "native", eligible=True)
    for render in (matrix_text, matrix_markdown):
        new, old = (
            line
            for line in render(PROFILES["b200"], [row, known]).splitlines()
            if "a/new" in line or "a/old" in line
        )
        assert "native, experimental" in new
        assert "experimental" not in old
    first, second = matrix_dict(PROFILES["b200"], [row, known])["kernels"]
    assert (first["tier"], first["experimental"], second["experimental"]) == ("native", True, False)


@pytest.mark.parametrize("render", [matrix_text, matrix_markdown])
def test_an_empty_matrix_is_rendered(render):
    assert "l40s" in render(PROFILES["l40s"], [])
    found = matrix_dict(PROFILES["l40s"], [])
    assert (found["device"], found["kernels"]) == ("l40s", [])
    assert "cut short" in render(PROFILES["l40s"], [], ["l40s.json: cut short"])


AGAINST = Evidence(cases=37, failed=3, note="numbers[m=7]: 0.2 | far")
OLD = Evidence(EvidenceLevel.VERIFIED, stale=True, cases=4, why_stale="torch 2.8 was run")


def test_what_speaks_against_a_kernel_is_said_under_the_table():
    rows = [
        MatrixRow("a/bad", "linear", "a", "nvfp4", "native", eligible=True, evidence=AGAINST),
        MatrixRow("a/bad", "linear", "a", "fp8_tensor", "native", eligible=True, evidence=AGAINST),
        MatrixRow("a/old", "linear", "a", "nvfp4", "native", eligible=True, evidence=OLD),
    ]
    lines = matrix_text(PROFILES["l40s"], rows, ["x.json: it is no JSON"]).splitlines()
    assert lines[1] == "evidence: 1 stale, 1 failed"
    assert lines[-3:] == [
        "a/bad failed 3 of 40: numbers[m=7]: 0.2 | far",
        "a/old is stale: torch 2.8 was run",
        "does not count: x.json: it is no JSON",
    ]
    markdown = matrix_markdown(PROFILES["l40s"], rows, ["x.json: it is no JSON"])
    assert markdown.endswith("- does not count: x.json: it is no JSON\n")
    assert matrix_dict(PROFILES["l40s"], rows, ["x"])["evidence_problems"] == ["x"]


def test_failed_evidence_is_shown_as_such_and_holds_nothing():
    assert (AGAINST.mark, AGAINST.text) == ("failed", "failed 3 of 40")
    assert not AGAINST.holds(EvidenceLevel.COMPILED)
    assert not OLD.holds(EvidenceLevel.VERIFIED)
    assert Evidence(EvidenceLevel.MEASURED).holds(EvidenceLevel.VERIFIED)
