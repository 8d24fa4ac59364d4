"""The figures of docs/selection.md are those of the results."""

import json

import pytest

from .conftest import ROOT, script

PAGE = ROOT / "docs" / "selection.md"


@pytest.fixture(scope="module")
def markdown():
    return script("selection_markdown")


def test_tables_of_the_page_are_those_of_the_results(markdown):
    page = PAGE.read_text(encoding="utf-8")
    assert markdown.filled(page) == page
    # and they are there at all
    assert "the first run, by what was shipped before it" in page


def cell(loss, m=1, *, is_loss=True):
    return {"scheme": "s", "n": 64, "k": 128, "m": m, "loss": loss, "is_loss": is_loss}


def test_a_line_says_how_far_behind(markdown):
    figures = {"ratio": 1.02, "on_layout": 1.01, "near": 0.5, "served": 2}
    data = {
        "quality": {"as it is": [figures], "order only": [{"ratio": 1.3}]},
        "cells": [cell(0.2), cell(0.0), cell(None)],
    }
    line = markdown.runs({"1": data}).splitlines()[-1]
    assert line.endswith("| 2 | 2.0 % | 1.0 % | 50 % | 20 % | 30.0 % |")


def test_few_rows_and_many_stand_apart_and_what_was_never_timed_does(markdown):
    cells = [cell(0.0), cell(0.05, 64), cell(0.05, 65, is_loss=False), cell(None, 128)]
    found = {"1": {"cells": cells}, markdown.LAST: {"cells": [*cells, cell(0.5, 2)]}}
    lines = markdown.parts(found).splitlines()[2:]
    assert lines == [
        "| timed before: s, M ≤ 64 | 2 | 2.5 % | 50 % | 50 % | 5.0 % |",
        "| timed before: s, M > 64 | 1 | 5.0 % | 0 % | 100 % | 5.0 % |",
        "| timed before: all | 3 | 3.3 % | 33 % | 67 % | 5.0 % |",
        "| not timed before | 1 | 50.0 % | 0 % | 0 % | 50.0 % |",
    ]


def test_a_backend_that_cannot_serve_all_cells_says_so(markdown):
    fixed = {"backend": "b", "ratio": 1.5, "cells": 3, "unserved": 1, "with_others": None}
    data = {"quality": {"as it is": [{"name": "s", "fixed": [fixed]}]}}
    assert markdown.backends({markdown.LAST: data}).splitlines()[-1] == (
        "| s: b | 3, 1 not | 1.50× | – |"
    )


def test_a_page_without_marks_is_refused(markdown, tmp_path):
    with pytest.raises(ValueError, match="no <!-- quality"):
        markdown.filled("# a page", tmp_path)


def test_results_are_read_by_name(markdown, tmp_path):
    (tmp_path / f"{markdown.PREFIX}1.json").write_text(json.dumps({"cells": []}))
    assert list(markdown.load(tmp_path)) == ["1"]
