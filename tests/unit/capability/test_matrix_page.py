"""The page: one file, complete without scripts, and nothing in the data can break out of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.capability.matrix import MARKS, MatrixRow
from quantmux.capability.matrix_fold import fold, is_of_interest
from quantmux.capability.matrix_page import DeviceMatrix, matrix_page
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection, RejectionCode

VOID = {"meta", "link", "input", "br", "i-void"}
NO_ARCH = Rejection(RejectionCode.ARCH, "arch", "90a", "sm89", "take another")
NOT_MADE = Rejection(RejectionCode.OPERAND, "scheme.weight", "int8", "fp8_e4m3")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \" '"


class Page(HTMLParser):
    """Reads a page into rows of cells, and checks that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.data, self.text = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "li" and self.open[-1] != "li":
            return
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            if self.tags[-1][1].get("type") == "application/json":
                self.data += data
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def row(kernel="acme/gemm", scheme="nvfp4", op="linear", tier="native", **fields):
    data = {"rejections": (), "evidence": Evidence(), **fields}
    backend = kernel.partition("/")[0]
    return MatrixRow(kernel, op, backend, scheme, tier, eligible=tier is not None, **data)


def page(*columns, names=("h200", "b200", "cpu"), problems=()):
    found = [
        DeviceMatrix(PROFILES[name], tuple(rows), tuple(problems))
        for name, rows in zip(names, columns, strict=False)
    ]
    return matrix_page(found, version="1.2.3", date="2026-11-21")


def read(*columns, **more):
    return Page(page(*columns, **more))


def test_devices_stand_beside_each_other_and_reasons_in_the_data():
    yes = Evidence(EvidenceLevel.VERIFIED, cases=40, worst_error=1e-7, date="2026-11-20")
    found = read([row(evidence=yes)], [row(tier=None, rejections=(NO_ARCH,))])
    head, op, line = found.rows
    assert head[0].startswith("Scheme")
    assert head[2].startswith("h200")
    assert "1 of 1 serve" in head[2]
    assert "1 verified" in head[2]
    assert "0 of 1 serve" in head[3]
    assert op[0].startswith("linear")
    assert line == ["nvfp4", "acme/gemm", "native", "arch"]
    data = json.loads(found.data)
    assert [d["name"] for d in data["devices"]] == ["h200", "b200"]
    cells = [a for tag, a in found.tags if tag == "button" and "data-a" in a]
    answers = [data["answers"][int(cell["data-a"])] for cell in cells]
    assert answers[0]["proof"] == "verified, 40 cases"
    assert answers[0]["evidence"]["date"] == "2026-11-20"
    assert answers[1]["no"] == [["arch", "needs 90a, found sm89", "take another"]]
    assert [cell["class"] for cell in cells] == ["native verified", "no declared"]


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_has_a_look_and_a_legend(mark):
    evidence = {
        "stale": Evidence(EvidenceLevel.VERIFIED, stale=True, cases=1),
        "failed": Evidence(cases=1, failed=1),
    }.get(mark) or Evidence(EvidenceLevel(mark), cases=1)
    text = page([row(evidence=evidence)])
    assert f'class="native {mark}"' in text
    assert f'class="mark {mark}"' in text
    assert mark == "declared" or f".{mark} > i" in text


def test_alike_layouts_share_a_row_and_unlike_ones_do_not():
    rows = [
        row(scheme=f"nvfp4 {layout}", op="quantize", tier=tier)
        for layout, tier in (("row_major", "native"), ("swizzled", "native"), ("odd", "emulated"))
    ]
    labels = [found.label for found in fold([rows, rows])]
    assert labels == ["nvfp4 (2 layouts)", "nvfp4 odd"]
    other = [rows[0], row(scheme="nvfp4 swizzled", op="quantize", tier="emulated"), rows[2]]
    assert len(fold([rows, other])) == 3
    lines = read(rows, rows).rows[2:]
    assert [line[0] for line in lines] == ["nvfp4 (2 layouts)", "nvfp4 odd"]


def test_kernels_made_for_no_device_s_scheme_are_left_out():
    never = row(tier=None, rejections=(NOT_MADE, NO_ARCH))
    assert not is_of_interest(never)
    assert is_of_interest(row(tier=None, rejections=(NO_ARCH,)))
    assert len(read([never], [never]).rows) == 1
    assert len(read([never], [row()]).rows) == 3


def test_nothing_in_the_data_breaks_out_of_the_page():
    evil = Rejection(RejectionCode.VETO, EVIL, EVIL, EVIL, EVIL)
    evidence = Evidence(cases=1, failed=1, note=EVIL, why_stale=EVIL)
    text = page(
        [row(scheme=EVIL, tier=None, rejections=(evil,), evidence=evidence)], problems=[EVIL]
    )
    found = Page(text)
    assert "img" not in {tag for tag, _ in found.tags}
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert not any("onerror" in attrs for _, attrs in found.tags)
    assert json.loads(found.data)["answers"][0]["evidence"]["note"] == EVIL
    assert EVIL in "".join(found.text)


def test_the_page_needs_nothing_else():
    text = page([row()], problems=["x.json: cut short"])
    assert re.findall(r"https?://|@import|url\(|src=", text) == []
    assert "1 entry does not count" in text
    assert text == page([row()], problems=["x.json: cut short"])


def test_without_scripts_every_reason_can_be_read():
    found = read([row(tier=None, rejections=(NO_ARCH,))])
    assert "noscript" in {tag for tag, _ in found.tags}
    assert "arch: needs 90a, found sm89" in "".join(found.text)


def test_a_page_without_kernels_is_a_page():
    assert read([]).rows[0][:2] == ["Scheme", "Kernel"]


def test_a_hundred_kernels_on_nine_devices_stay_small():
    rows = [
        row(
            f"acme/kernel_{k}",
            f"scheme_{s}",
            tier=("native", None)[(k + s) % 2],
            rejections=(NO_ARCH.replace(actual=f"sm{k}"),) if (k + s) % 2 else (),
            evidence=Evidence(EvidenceLevel.VERIFIED, cases=k),
        )
        for k in range(100)
        for s in range(10)
    ]
    text = page(*[rows] * 9, names=tuple(PROFILES))
    assert len(text.encode()) < 1_500_000
    assert len(Page(text).rows) == 1002


def test_no_control_hides_a_method_of_the_form():
    controls = page([row()]).partition("<form")[2].partition("</form>")[0]
    ids = re.findall(r"\bid=(\w+)", controls)
    assert {"find", "clear", "count"} <= set(ids)
    assert not set(ids) & {"reset", "submit", "elements", "length", "name", "action", "method"}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here to parse the script")
def test_the_script_parses(tmp_path):
    script = page([row()]).rpartition("<script>")[2].partition("</script>")[0]
    file = tmp_path / "page.js"
    file.write_text(script)
    subprocess.run(["node", "--check", str(file)], check=True, capture_output=True)
