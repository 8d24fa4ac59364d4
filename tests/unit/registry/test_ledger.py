"""What counts as evidence, what is stale, and what is never believed."""

import json
import logging

import pytest

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow, seal_of
from quantmux.capability.needs import forget, package_version
from quantmux.capability.profiles import PROFILES
from quantmux.registry import BackendInfo, Registry, load_registry
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import read_ledger, record_evidence, versions_here

H200 = PROFILES["h200"]
HERE = H200.replace(is_present=True, driver="580.1")
OTHER = "0123456789abcdef"


@pytest.fixture
def registry(install):
    install("acme")
    install("zeta")
    return load_registry(only=("acme", "zeta"))


@pytest.fixture
def user(tmp_path):
    return tmp_path / "user"


@pytest.fixture
def row(registry):
    """Build a row of a kernel as it is today, verified unless said otherwise."""

    def make(kernel="acme/one", **fields):
        spec = registry.get(kernel)
        data = {
            "kernel": kernel,
            "digest": kernel_digest(spec, registry.folder(spec.backend)),
            "level": "verified",
            "cases": 40,
            "refused": 2,
            "worst_error": 1e-7,
            "date": "2026-11-20",
            "driver": "580.1",
            "versions": versions_here(spec),
        }
        return EvidenceRow(**{**data, **fields})

    return make


def shipped(registry, name, *rows, device="h200"):
    return record_evidence(rows, device, registry.folder(name) / "evidence")


def test_a_missing_folder_is_normal(registry, user, caplog):
    ledger = read_ledger(registry, H200, user)
    assert (ledger.evidence, ledger.problems, ledger.unknown) == ({}, (), ())
    assert read_ledger(registry, H200, None).evidence == {}
    assert not caplog.records


def test_reads_what_plugins_ship_and_what_the_user_ran(registry, user, row):
    # both plugins are single modules of one folder, and share its evidence
    shipped(registry, "acme", row())
    record_evidence([row("zeta/two", level="measured")], "h200", user / "evidence")
    ledger = read_ledger(registry, HERE, user)
    assert {k: e.level for k, e in ledger.evidence.items()} == {
        "acme/one": EvidenceLevel.VERIFIED,
        "zeta/two": EvidenceLevel.MEASURED,
    }
    assert ledger.problems == ()
    found = ledger.evidence["acme/one"]
    assert not found.stale
    assert (found.cases, found.refused, found.worst_error) == (40, 2, 1e-7)
    assert (found.date, found.driver) == ("2026-11-20", "580.1")
    assert read_ledger(registry, PROFILES["b200"], user).evidence == {}


def test_a_plugin_may_speak_of_its_own_kernels_only(plugin, row, tmp_path):
    alone = Registry.of({"acme": plugin("acme"), "zeta": plugin("zeta")})
    folder = tmp_path / "acme"
    record_evidence([row("zeta/one")], "h200", folder / "evidence")
    alone.folder = lambda name: folder if name == "acme" else None
    ledger = read_ledger(alone, H200, None)
    assert ledger.evidence == {}
    assert ledger.problems[0].endswith("zeta/one is not a kernel of acme")


def test_other_sources_make_it_stale(registry, user, row):
    record_evidence([row(digest=OTHER)], "h200", user / "evidence")
    found = read_ledger(registry, H200, user).evidence["acme/one"]
    today = kernel_digest(registry.get("acme/one"), registry.folder("acme"))
    assert found.stale
    assert found.why_stale == (
        f"sources changed since: digest 01234567 was run, {today[:8]} is here"
    )


@pytest.mark.parametrize(
    ("torch", "stale"),
    [("2.98.7", True), ("SAME.9", False), ("SAME.0+cu999", False), ("what", True)],
)
def test_another_release_makes_it_stale_and_another_patch_does_not(
    registry, user, row, torch, stale
):
    version = package_version("torch")
    release = ".".join(version.split(".")[:2])
    run = torch.replace("SAME", release)
    record_evidence([row(versions={"torch": run})], "h200", user / "evidence")
    found = read_ledger(registry, HERE, user).evidence["acme/one"]
    assert found.stale is stale
    assert found.why_stale == (f"torch {run} was run, {version} is here" if stale else "")
    assert found.versions == (("torch", run),)


def test_versions_of_a_device_that_is_not_here_are_not_compared(registry, user, row):
    record_evidence([row(versions={"torch": "2.0.0"})], "h200", user / "evidence")
    assert not read_ledger(registry, H200, user).evidence["acme/one"].stale
    assert read_ledger(registry, HERE, user).evidence["acme/one"].stale


def test_another_driver_or_foreign_package_is_shown_and_not_stale(registry, user, row):
    rows = [row(driver="1.2", versions={"numpy": "0.1"})]
    record_evidence(rows, "h200", user / "evidence")
    found = read_ledger(registry, HERE, user).evidence["acme/one"]
    assert not found.stale
    assert (found.driver, dict(found.versions)) == ("1.2", {"numpy": "0.1"})


def test_failed_cases_speak_against_the_kernel(registry, user, row):
    rows = [row(failed=3, note="numbers[M=7]: 0.2\nfar off")]
    record_evidence(rows, "h200", user / "evidence")
    found = read_ledger(registry, H200, user).evidence["acme/one"]
    assert found.level is EvidenceLevel.DECLARED
    assert (found.mark, found.text) == ("failed", "failed 3 of 45")
    assert found.note == "numbers[M=7]: 0.2 far off"


@pytest.mark.parametrize(
    ("ours", "theirs", "winner"),
    [
        ({"level": "measured"}, {"digest": OTHER}, "ours"),
        ({"digest": OTHER, "level": "measured"}, {}, "theirs"),
        ({"level": "measured", "date": "2026-01-01"}, {}, "ours"),
        ({"date": "2026-11-21"}, {}, "ours"),
        ({}, {"date": "2026-11-21"}, "theirs"),
        ({"failed": 1}, {"level": "measured"}, "ours"),
        ({"failed": 1, "date": "2026-11-21"}, {}, "ours"),
        ({"failed": 1, "date": "2026-11-19"}, {}, "theirs"),
        ({"failed": 1, "digest": OTHER}, {}, "theirs"),
    ],
)
def test_of_two_rows_the_one_that_says_more_of_today_counts(
    registry, user, row, ours, theirs, winner
):
    record_evidence([row(note="ours", **ours)], "h200", user / "evidence")
    shipped(registry, "acme", row(note="theirs", **theirs))
    assert read_ledger(registry, H200, user).evidence["acme/one"].note == winner


def test_kernels_of_today_s_absentees_are_listed_apart(registry, user, row):
    record_evidence([row().replace(kernel="gone/one")], "h200", user / "evidence")
    ledger = read_ledger(registry, H200, user)
    assert ledger.problems == ()
    assert ledger.unknown[0].endswith("gone/one is no kernel that is registered")


def _truncate(text):
    return text[: len(text) // 2]


def _edit(**changes):
    """Edit the first row, seal it anew, and so leave only the lie to be found."""

    def edit(text):
        data = json.loads(text)
        row = {**data["rows"][0], **changes}
        data["rows"][0] = {**row, "seal": seal_of(row, "h200")}
        return json.dumps(data)

    return edit


def _unsealed(**changes):
    def edit(text):
        data = json.loads(text)
        data["rows"][0] |= changes
        return json.dumps(data)

    return edit


def _file(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


def _twice(text):
    data = json.loads(text)
    return json.dumps({**data, "rows": data["rows"] * 2})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "cut short"),
        (lambda _: "", "no JSON"),
        (lambda _: "[" * 100_000, "no JSON"),
        (lambda _: "[]", "it is not"),
        (_file(rows={"a": 1}), "it is not"),
        (_file(rows=["x"]), "row 1 is no object"),
        (_file(schema=2), "it is of schema 2, this version reads 1"),
        (_file(schema="one"), "schema"),
        (_file(device="h100"), 'says "device": "h100"'),
        (_file(device=None), "device"),
        (_edit(cases=0), "verified with no case"),
        (_edit(cases=-3), "cases"),
        (_edit(cases="many"), "cases"),
        (_edit(level="proved"), "level"),
        (_edit(level="measured", failed=2), "measured with 2 failed cases"),
        (_edit(digest="new"), "'new' is no digest"),
        (_edit(date="yesterday"), "is no day"),
        (_edit(worst_error=float("nan")), "is no error"),
        (_edit(kernel=None), "kernel"),
        (_edit(versions=["torch"]), "versions"),
        (_unsealed(level="measured"), "its seal does not fit"),
        (_unsealed(cases=400), "its seal does not fit"),
        (_unsealed(seal=""), "it has no seal"),
        (_twice, "acme/one has 2 rows, none of which counts"),
    ],
)
def test_what_cannot_be_trusted_is_reported_and_never_counts(
    registry, user, row, caplog, damage, says
):
    file = record_evidence([row()], "h200", user / "evidence")
    assert "acme/one" in read_ledger(registry, H200, user).evidence
    file.write_text(damage(file.read_text()))
    for _ in range(2):
        ledger = read_ledger(registry, H200, user)
        assert ledger.evidence == {}
        assert len(ledger.problems) == 1
        assert ledger.problems[0].startswith(f"{file}: ")
        assert says in ledger.problems[0]
        assert "\n" not in ledger.problems[0]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(file) in record.getMessage()


def test_one_bad_row_does_not_cost_the_others(registry, user, row):
    rows = [row(), row("zeta/one")]
    file = record_evidence(rows, "h200", user / "evidence")
    file.write_text(_unsealed(cases=41)(file.read_text()))
    ledger = read_ledger(registry, H200, user)
    assert set(ledger.evidence) == {"zeta/one"}
    assert "row 1 (acme/one)" in ledger.problems[0]


def test_a_row_of_another_device_copied_over_does_not_count(registry, user, row):
    file = record_evidence([row()], "h100", user / "evidence")
    copy = file.with_name("h200.json")
    copy.write_text(_file(device="h200")(file.read_text()))
    ledger = read_ledger(registry, H200, user)
    assert ledger.evidence == {}
    assert "another device's" in ledger.problems[0]


def test_bytes_that_are_no_text_and_folders_are_reported(registry, user):
    folder = user / "evidence"
    (folder / "h200.json").mkdir(parents=True)
    assert "cannot be read" in read_ledger(registry, H200, user).problems[0]
    (folder / "b200.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in read_ledger(registry, PROFILES["b200"], user).problems[0]


def test_keys_of_later_versions_are_kept_and_sealed(registry, user, row):
    file = record_evidence([row()], "h200", user / "evidence")
    file.write_text(_edit(later={"x": [1]})(file.read_text()))
    assert read_ledger(registry, H200, user).evidence["acme/one"].cases == 40
    record_evidence([row("zeta/one")], "h200", user / "evidence")
    kept = {r["kernel"]: r for r in json.loads(file.read_text())["rows"]}
    assert kept["acme/one"]["later"] == {"x": [1]}
    assert set(read_ledger(registry, H200, user).evidence) == {"acme/one", "zeta/one"}


def test_a_file_is_parsed_once_for_each_of_its_states(registry, user, row, monkeypatch):
    from quantmux.registry import ledger_files

    file = record_evidence([row()], "h200", user / "evidence")
    parsed = []
    parse = ledger_files.parse_evidence

    def counting(text, device):
        parsed.append(device)
        return parse(text, device)

    monkeypatch.setattr(ledger_files, "parse_evidence", counting)
    for _ in range(3):
        read_ledger(registry, H200, user)
    assert parsed == ["h200"]
    file.write_text(_file(device="h100")(file.read_text()))
    assert read_ledger(registry, H200, user).evidence == {}
    assert parsed == ["h200", "h200"]


def test_digests_are_asked_for_only_where_evidence_is(registry, user, row, monkeypatch):
    from quantmux.registry import ledger

    record_evidence([row(), row("zeta/one")], "h200", user / "evidence")
    asked = []

    def counting(spec, folder):
        asked.append(spec.id)
        return kernel_digest(spec, folder)

    monkeypatch.setattr(ledger, "kernel_digest", counting)
    found = read_ledger(registry, H200, user).evidence
    assert (asked, len(found), found.get("acme/two")) == ([], 2, None)
    assert found["zeta/one"] is found["zeta/one"]
    assert asked == ["zeta/one"]


def test_a_device_name_leads_out_of_no_folder(registry, tmp_path, row):
    outside = tmp_path / "user" / "secret.json"
    record_evidence([row()], "secret", outside.parent)
    found = read_ledger(registry, H200.replace(name="../secret"), tmp_path / "user")
    assert (found.evidence, found.problems) == ({}, ())


def test_versions_here_are_those_of_torch_and_of_the_needs(plugin):
    from quantmux.capability import Needs

    class Info:
        name = "acme"

    from quantmux.registry.kernel_spec import KernelSpec

    base = Registry.of({"acme": plugin("acme", info=BackendInfo("acme", "1"))}).kernels[0]
    needs = (
        Needs(kind="package", name="packaging"),
        Needs(kind="package", name="no-such-package"),
        Needs(kind="tool", name="nvcc"),
    )
    spec = KernelSpec(
        base.id, base.op, base.capability.replace(needs=needs), base.load, base.sources
    )
    forget()
    assert versions_here(spec) == {
        "torch": package_version("torch"),
        "packaging": package_version("packaging"),
    }
