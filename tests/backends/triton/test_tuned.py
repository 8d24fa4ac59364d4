"""Measured tile sizes: which row answers, and what happens to files that are not as they should."""

import json
import logging
import re
import subprocess
import sys

import pytest

from quantmux.errors import ConfigError, QuantmuxError
from quantmux_triton import tuned as module
from quantmux_triton.tuned import (
    NO_END,
    PACKAGE,
    TunedRow,
    record_tuned,
    tuned,
    tuned_files,
    tuned_ranges,
    tuned_rows,
)


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """A package folder of the test's own, without any row."""
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    monkeypatch.setattr(module, "_warned", set())
    module.forget()
    yield tmp_path
    module.forget()


def row(m, block, *, n=576, k=7168, kind="fp8", **more):
    facts = {"us": 2.5, "rate": 1700.0, "unit": "gb_s", "triton": "3.6.0", **more}
    return TunedRow(kind=kind, n=n, k=k, m=m, config={"BLOCK": block}, **facts)


def put(package, rows, device="h200", stem="gemm"):
    return record_tuned(rows, device, stem, package / "configs")


def test_gives_nothing_where_nothing_was_measured(package):
    put(package, [row(16, 1)])
    asked = {"n": 576, "k": 7168, "m": 16}
    assert tuned("h200", "gemm", "fp8", **asked) == {"BLOCK": 1}
    assert tuned("b200", "gemm", "fp8", **asked) is None
    assert tuned("h200", "other", "fp8", **asked) is None
    assert tuned("h200", "gemm", "int8", **asked) is None
    assert tuned("../h200", "gemm", "fp8", **asked) is None


def test_takes_the_nearest_shape_and_none_that_is_more_than_four_times_away(package):
    put(package, [row(16, 1), row(16, 2, n=4096), row(16, 3, n=4096, k=2048)])
    near = {
        (576, 7168): 1,
        (1000, 7168): 1,
        (2112, 7168): 2,
        (4096, 3000): 3,
        (16384, 7168): 2,
        (144, 7168): 1,
    }
    for (n, k), block in near.items():
        assert tuned("h200", "gemm", "fp8", n=n, k=k, m=16) == {"BLOCK": block}, (n, k)
    assert tuned("h200", "gemm", "fp8", n=143, k=7168, m=16) is None
    assert tuned("h200", "gemm", "fp8", n=4096, k=511, m=16) is None


def test_ranges_of_m_end_between_the_measured_ones_and_the_last_never(package):
    put(package, [row(1, 8), row(16, 8), row(64, 16), row(1024, 32)])
    ranges = tuned_ranges("h200", "gemm", "fp8", n=576, k=7168)
    assert ranges == ((32, {"BLOCK": 8}), (256, {"BLOCK": 16}), (NO_END, {"BLOCK": 32}))
    found = {m: tuned("h200", "gemm", "fp8", n=576, k=7168, m=m) for m in (1, 32, 33, 9999)}
    assert [c["BLOCK"] for c in found.values()] == [8, 8, 16, 32]


def test_a_choice_cannot_be_changed_by_who_asks(package):
    put(package, [row(16, 1)])
    with pytest.raises(TypeError):
        tuned("h200", "gemm", "fp8", n=576, k=7168, m=16)["BLOCK"] = 2


def test_rows_of_the_user_come_before_those_of_the_package(package):
    put(package, [row(16, 1), row(64, 2)])
    record_tuned([row(16, 5)], "h200", "gemm")
    assert tuned("h200", "gemm", "fp8", n=576, k=7168, m=16) == {"BLOCK": 5}
    assert tuned("h200", "gemm", "fp8", n=576, k=7168, m=64) == {"BLOCK": 2}


def test_recording_replaces_rows_of_the_same_shape_and_keeps_the_others(package):
    put(package, [row(16, 1), row(64, 2)])
    file = put(package, [row(16, 3)])
    data = json.loads(file.read_text())
    assert [(r["m"], r["config"]["BLOCK"]) for r in data["rows"]] == [(16, 3), (64, 2)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", r["date"]) for r in data["rows"])
    assert tuned_rows("h200", "gemm")[0].rate == 1700.0
    with pytest.raises(ConfigError):
        put(package, [row(16, 1)], device="no/name")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ('{"schema": 9, "device": "h200", "rows": []}', "schema 9"),
        ('{"schema": 1, "device": "b200", "rows": []}', "b200"),
    ],
)
def test_a_broken_file_is_a_warning_and_the_analytic_choice(package, caplog, text, said):
    file = package / "configs/gemm/h200.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with caplog.at_level(logging.WARNING, "quantmux.select"):
        for m in (1, 2):
            assert tuned("h200", "gemm", "fp8", n=576, k=7168, m=m) is None
    (told,) = caplog.messages
    assert said in told


def test_one_bad_row_does_not_cost_the_others(package, caplog):
    file = put(package, [row(16, 1)])
    data = json.loads(file.read_text())
    data["rows"] += [{"kind": "fp8", "n": 0}, 7]
    file.write_text(json.dumps(data))
    module.forget()
    with caplog.at_level(logging.WARNING, "quantmux.select"):
        assert tuned("h200", "gemm", "fp8", n=576, k=7168, m=16) == {"BLOCK": 1}
    assert "row 2" in caplog.text


def test_a_file_of_a_later_version_is_not_overwritten(package):
    file = package / "configs/gemm/h200.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"schema": 2, "device": "h200", "rows": []}')
    with pytest.raises(QuantmuxError, match="later version"):
        put(package, [row(16, 1)])
    assert '"schema": 2' in file.read_text()


def test_data_files_are_named_relative_to_the_package(package):
    put(package, [row(16, 1)])
    put(package, [row(16, 1)], device="b200")
    assert tuned_files("gemm") == ("configs/gemm/b200.json", "configs/gemm/h200.json")
    assert tuned_files("nothing") == ()


def test_every_row_that_ships_can_be_read(monkeypatch, caplog):
    monkeypatch.setattr(module, "PACKAGE", PACKAGE)
    for file in sorted((PACKAGE / "configs").glob("*/*.json")):
        rows = tuned_rows(file.stem, file.parent.name)
        assert len(rows) == len(json.loads(file.read_text())["rows"]) > 0, file
        assert all(r.date and r.triton for r in rows), file
        assert len({r.key for r in rows}) == len(rows), file
    assert not caplog.messages


def test_looking_up_imports_neither_torch_nor_triton():
    code = (
        "import sys\nfrom quantmux_triton.tuned import tuned\n"
        "tuned('h200', 'x', 'y', n=1, m=1)\n"
        "sys.exit(' '.join({'torch', 'triton'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
