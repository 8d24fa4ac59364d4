"""Tables: on a narrow console nothing that was said is cut away."""

import io

import pytest
from rich.console import Console

from quantmux.cli import main
from quantmux.cli._render import show_table, table


def printed(rows, width):
    file = io.StringIO()
    show_table(Console(file=file, width=width), rows)
    return file.getvalue()


def made():
    rows = table(("kernel", "fold"), "outcome", ("for", "fold"), ("seconds", "right"))
    rows.add_row(
        "torch/linear_scaled_mm_row_cutlass", "not here", "a100 h100 h200 b200 b300", "12.5"
    )
    return rows


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_a_table_says_all_at_any_width(width):
    text = printed(made(), width)
    assert "…" not in text
    for word in ("outcome", "seconds", "not here", "12.5", "a100", "b300"):
        assert word in text
    letters = "".join(text.split())
    assert "torch/linear_scaled_mm_r" in letters
    assert "ow_cutlass" in letters


def test_a_column_that_folds_keeps_its_width_where_the_console_is_too_narrow():
    lines = printed(made(), 30).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) > 30


def test_a_table_that_fits_does_not_fold():
    assert len(printed(made(), 120).splitlines()) == 2


def test_build_says_why_on_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["build", "--kernel", "torch/linear_scaled_mm_tensor"])
    text = capsys.readouterr().out
    assert "offers no compile_for" in text
    assert "…" not in text
