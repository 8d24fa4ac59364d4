"""Recording evidence: what is kept, what is replaced, and what a bad disk may not break."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.errors import ConfigError, QuantmuxError
from quantmux.registry import row_files
from quantmux.registry.ledger import record_evidence
from quantmux.registry.ledger_files import parse_evidence

ONE, TWO = "1" * 16, "2" * 16


def row(kernel="acme/one", **fields):
    data = {"digest": ONE, "level": "verified", "cases": 40, "date": "2026-11-20"}
    return EvidenceRow(kernel=kernel, **{**data, **fields})


def kept(folder, device="h200"):
    content = parse_evidence((folder / f"{device}.json").read_text(), device)
    assert content.problems == ()
    return {r.kernel: r for r, _ in content.rows}


def both(folder, old, new):
    record_evidence([old], "h200", folder)
    record_evidence([new], "h200", folder)
    return kept(folder)["acme/one"]


def test_the_file_has_the_promised_shape_and_one_order(tmp_path):
    file = record_evidence([row("acme/two"), row()], "h200", tmp_path / "new" / "evidence")
    data = json.loads(file.read_text())
    assert file == tmp_path / "new" / "evidence" / "h200.json"
    assert (data["schema"], data["device"]) == (1, "h200")
    assert [r["kernel"] for r in data["rows"]] == ["acme/one", "acme/two"]
    assert {p.name for p in file.parent.iterdir()} == {"h200.json", ".h200.json.lock"}
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_new_run_replaces_its_row_and_keeps_those_of_others(tmp_path):
    record_evidence([row(), row("acme/two")], "h200", tmp_path)
    record_evidence([row(cases=7, worst_error=0.5)], "h200", tmp_path)
    found = kept(tmp_path)
    assert (found["acme/one"].cases, found["acme/one"].worst_error) == (7, 0.5)
    assert found["acme/two"].cases == 40


def test_a_row_without_a_day_is_of_today(tmp_path):
    record_evidence([row(date="")], "h200", tmp_path)
    assert len(kept(tmp_path)["acme/one"].date) == len("2026-11-20")


def test_the_same_run_twice_writes_the_same_bytes(tmp_path):
    file = record_evidence([row()], "h200", tmp_path)
    first = file.read_bytes()
    record_evidence([row()], "h200", tmp_path)
    assert file.read_bytes() == first


TIMED = {"level": "measured", "cases": 0, "date": "2026-11-21"}
BUILT = {"level": "compiled", "cases": 0, "archs": ("sm100",)}


def test_a_time_raises_what_is_verified_and_keeps_its_cases(tmp_path):
    found = both(tmp_path, row(worst_error=0.25), row(**TIMED))
    assert found.level is EvidenceLevel.MEASURED
    assert (found.cases, found.worst_error, found.date) == (40, 0.25, "2026-11-21")


@pytest.mark.parametrize(
    "old",
    [
        row(digest=TWO),
        row(versions={"torch": "2.11.0"}),
        row(failed=1),
        row(**BUILT),
    ],
    ids=["other sources", "other release", "failed", "compiled"],
)
def test_a_time_raises_nothing_that_is_not_verified_as_it_is(tmp_path, old):
    record_evidence([old], "h200", tmp_path)
    before = kept(tmp_path)
    record_evidence([row(**TIMED, versions={"torch": "2.13.0"})], "h200", tmp_path)
    assert kept(tmp_path) == before


def test_a_time_alone_proves_nothing(tmp_path):
    record_evidence([row(**TIMED)], "h200", tmp_path)
    assert kept(tmp_path) == {}


def test_verifying_again_leaves_measured_what_is(tmp_path):
    found = both(tmp_path, row(level="measured"), row(cases=50))
    assert (found.level, found.cases) == (EvidenceLevel.MEASURED, 50)


@pytest.mark.parametrize("change", [{"digest": TWO}, {"versions": {"torch": "2.13.1"}}])
def test_verifying_other_sources_or_releases_starts_anew(tmp_path, change):
    old = row(level="measured", versions={"torch": "2.11.0"})
    assert both(tmp_path, old, row(**change)).level is EvidenceLevel.VERIFIED


def test_compiling_takes_nothing_away(tmp_path):
    old = row(versions={"torch": "2.11.0"}, archs=("sm90",))
    found = both(tmp_path, old, row(**BUILT, versions={"torch": "2.13.0"}))
    assert (found.level, found.cases) == (EvidenceLevel.VERIFIED, 40)
    assert found.archs == ("sm100", "sm90")


def test_compiled_archs_gather_until_the_sources_change(tmp_path):
    assert both(tmp_path, row(**{**BUILT, "archs": ("sm90",)}), row(**BUILT)).archs == (
        "sm100",
        "sm90",
    )
    record_evidence([row(**BUILT, digest=TWO)], "h200", tmp_path)
    assert kept(tmp_path)["acme/one"].archs == ("sm100",)


def test_what_compiles_now_lifts_that_it_did_not_compile_but_no_failed_run(tmp_path):
    failed = {"level": "declared", "cases": 0, "failed": 1}
    found = both(tmp_path, row(**failed, ran=False), row(**BUILT, ran=False))
    assert (found.level, found.failed) == (EvidenceLevel.COMPILED, 0)
    assert both(tmp_path, row(**failed, digest=TWO), row(**BUILT, ran=False, digest=TWO)).failed


def test_a_smaller_run_does_not_wipe_out_a_failure(tmp_path, caplog):
    assert both(tmp_path, row(failed=1), row(cases=3)).failed == 1
    assert "too few to lift it" in caplog.text
    assert both(tmp_path, row(failed=1), row(cases=39)).failed == 1
    assert both(tmp_path, row(failed=1), row(cases=40)).failed == 0
    assert both(tmp_path, row(failed=1), row(cases=3, digest=TWO)).failed == 0


def test_failed_cases_are_never_more_than_declared(tmp_path):
    found = both(tmp_path, row(level="measured"), row(failed=1))
    assert (found.level, found.failed) == (EvidenceLevel.DECLARED, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cases": 0}, "no case"),
        ({"digest": "x"}, "no digest"),
        ({"date": "now"}, "no day"),
        ({"worst_error": float("inf")}, "no error"),
    ],
)
def test_refuses_what_no_run_can_have_shown(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        record_evidence([row(**change)], "h200", tmp_path)
    assert not (tmp_path / "h200.json").exists()


@pytest.mark.parametrize("name", ["../h200", "", "a/b", ".h200"])
def test_refuses_a_device_name_that_leads_elsewhere(tmp_path, name):
    with pytest.raises(ConfigError, match="no device name"):
        record_evidence([row()], name, tmp_path)


def test_a_corrupt_file_is_kept_aside_and_reported(tmp_path, caplog):
    file = tmp_path / "h200.json"
    for n, text in enumerate(['{"schema": 1, "dev', "also bad"], 1):
        file.write_text(text)
        record_evidence([row()], "h200", tmp_path)
        assert (tmp_path / f"h200.json.bad-{n}").read_text() == text
        assert set(kept(tmp_path)) == {"acme/one"}
        assert f"kept as h200.json.bad-{n}" in caplog.text


def test_an_edited_row_goes_aside_and_the_others_stay(tmp_path):
    file = record_evidence([row(), row("acme/two")], "h200", tmp_path)
    file.write_text(file.read_text().replace('"cases": 40', '"cases": 400', 1))
    record_evidence([row("acme/three")], "h200", tmp_path)
    assert set(kept(tmp_path)) == {"acme/two", "acme/three"}
    assert '"cases": 400' in (tmp_path / "h200.json.bad-1").read_text()


def test_a_file_of_a_later_version_is_left_alone(tmp_path):
    file = tmp_path / "h200.json"
    text = json.dumps({"schema": 2, "device": "h200", "rows": []})
    file.write_text(text)
    with pytest.raises(QuantmuxError, match="later version") as caught:
        record_evidence([row()], "h200", tmp_path)
    assert caught.value.code == "evidence_write"
    assert file.read_text() == text
    assert not list(tmp_path.glob("*.bad-*"))


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = record_evidence([row()], "h200", tmp_path)
    before = file.read_bytes()

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QuantmuxError, match="No space left on device") as caught:
        record_evidence([row(cases=1)], "h200", tmp_path)
    assert caught.value.code == "evidence_write"
    assert file.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"h200.json", ".h200.json.lock"}


def test_a_folder_that_cannot_be_written_names_the_user_s_own(tmp_path, monkeypatch):
    def read_only(*_args, **_kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(row_files.tempfile, "mkstemp", read_only)
    with pytest.raises(QuantmuxError, match="Read-only file system") as caught:
        record_evidence([row()], "h200", tmp_path)
    own = Path(os.environ["QUANTMUX_CACHE_DIR"]) / "evidence"
    assert str(own) in str(caught.value.hint)


def test_one_s_own_folder_that_cannot_be_written_is_not_advised_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(QuantmuxError, match="cannot be written") as caught:
        record_evidence([row()], "h200", tmp_path / "file" / "evidence")
    assert "QUANTMUX_CACHE_DIR" in str(caught.value.hint)
    assert str(tmp_path) not in str(caught.value.hint)


def test_a_file_in_the_place_of_the_folder_is_a_typed_error(tmp_path):
    (tmp_path / "evidence").write_text("")
    with pytest.raises(QuantmuxError, match="cannot be written"):
        record_evidence([row()], "h200", tmp_path / "evidence")


RECORD_TEN = """
import sys
from pathlib import Path
from quantmux.capability.ledger import EvidenceRow
from quantmux.registry.ledger import record_evidence

for n in range(10):
    row = EvidenceRow(
        kernel=f"acme/{sys.argv[1]}{n}", digest="1" * 16, level="verified", cases=n + 1
    )
    record_evidence([row], "h200", Path(sys.argv[2]))
"""


def test_processes_that_record_at_once_lose_nothing(tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-c", RECORD_TEN, name, str(tmp_path)]) for name in "abcd"
    ]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    found = kept(tmp_path)
    assert len(found) == 40
    assert all(found[f"acme/{name}{n}"].cases == n + 1 for name in "abcd" for n in range(10))
    assert not list(tmp_path.glob("*.bad-*"))
    assert not list(tmp_path.glob(".*.tmp"))
