"""Tuning files: what is believed, what is told, and what a record leaves behind."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.config import scheme
from quantmux.dispatch import TuningRow
from quantmux.dispatch.gather import gather
from quantmux.dispatch.tuning_files import parse_tuning, read_tuning, record_tuning
from quantmux.errors import ConfigError, QuantmuxError
from quantmux.registry.digest import kernel_digest
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry

if TYPE_CHECKING:
    from pathlib import Path

IDS = ("acme/q", "acme/gemm")
FIELDS: dict[str, Any] = {
    "pipeline": IDS,
    "scheme": "fp8_tensor",
    "n": 64,
    "k": 128,
    "m": 16,
    "us": 10.0,
    "digests": tuple((i, "0123456789abcdef") for i in IDS),
}


def row(**changes: Any) -> TuningRow:
    return TuningRow(**{**FIELDS, **changes})


def text(*rows: Any, **head: Any) -> str:
    return json.dumps({"schema": 1, "device": "cpu", "rows": list(rows), **head})


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    file = record_tuning([row(date="2026-11-21")], "cpu", tmp_path)
    content = read_tuning(file)
    assert content.rows == (row(date="2026-11-21"),)
    assert content.problems == ()


def test_a_row_gets_the_day_of_its_recording(tmp_path: Path) -> None:
    (found,) = read_tuning(record_tuning([row()], "cpu", tmp_path)).rows
    assert len(found.date) == len("2026-11-21")


def test_a_row_of_the_same_shape_is_replaced_and_others_stay(tmp_path: Path) -> None:
    record_tuning([row(), row(m=64)], "cpu", tmp_path)
    file = record_tuning([row(us=3.0), row(scheme="fp8_block128")], "cpu", tmp_path)
    found = {(r.scheme, r.m): r.us for r in read_tuning(file).rows}
    assert found == {("fp8_tensor", 16): 3.0, ("fp8_tensor", 64): 10.0, ("fp8_block128", 16): 10.0}


def test_recording_at_once_loses_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda m: record_tuning([row(m=m)], "cpu", tmp_path), range(1, 17)))
    assert {r.m for r in read_tuning(tmp_path / "cpu.json").rows} == set(range(1, 17))
    assert {f.name for f in tmp_path.iterdir()} == {"cpu.json", ".cpu.json.lock"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (text(row().to_dict())[:-40], "cut short"),
        ("[]", "it is not"),
        (text(schema=2), "schema 2"),
        (json.dumps({"rows": []}), "schema None"),
        (text(device="h200"), "its name says cpu"),
        (text({**row().to_dict(), "us": -3}), "row 1"),
        (text({**row().to_dict(), "m": 1.5}), "row 1"),
        (text("nonsense"), "no object"),
        (text({**row().to_dict(), "digests": {}}), "no digest of acme/q, acme/gemm"),
        (text(row().to_dict(), row(us=2.0).to_dict()), "2 rows, none of which counts"),
        ('{"schema": 1, "device": "cpu", "rows": [{"us": NaN}]}', "row 1"),
    ],
)
def test_what_cannot_be_trusted_does_not_count_and_is_told(content: str, problem: str) -> None:
    found = parse_tuning(content, "cpu")
    assert found.rows == ()
    assert problem in found.problems[0]


def test_a_bad_row_costs_itself_only() -> None:
    found = parse_tuning(text({**row().to_dict(), "us": 0}, row(m=64).to_dict()), "cpu")
    assert [r.m for r in found.rows] == [64]
    assert len(found.problems) == 1


def test_keys_of_a_later_version_are_read_over() -> None:
    assert parse_tuning(text({**row().to_dict(), "watts": 700}), "cpu").rows == (row(),)


def test_a_file_that_is_cut_short_is_kept_aside(tmp_path: Path) -> None:
    file = record_tuning([row()], "cpu", tmp_path)
    broken = file.read_text()[:-30]
    file.write_text(broken)
    record_tuning([row(m=64)], "cpu", tmp_path)
    assert (tmp_path / "cpu.json.bad-1").read_text() == broken
    assert [r.m for r in read_tuning(file).rows] == [64]


def test_a_file_of_a_later_version_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(text(schema=2))
    with pytest.raises(QuantmuxError, match="later version"):
        record_tuning([row()], "cpu", tmp_path)
    assert (tmp_path / "cpu.json").read_text() == text(schema=2)


def test_a_row_without_digests_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be recorded"):
        record_tuning([row(digests=())], "cpu", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_names_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QuantmuxError, match="cannot be written") as error:
        record_tuning([row()], "cpu", tmp_path / "file")
    assert "your own folder" in str(error.value)


def test_no_path_is_a_device_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no device name"):
        record_tuning([row()], "../evil", tmp_path)


class Acme:
    """A backend of one kernel, which ships measured times."""

    __name__ = "acme"

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="acme", version="1.0")

    @hookimpl
    def quantmux_kernels(self) -> tuple[KernelSpec, ...]:
        found = scheme("fp8_tensor")
        assert found.activation is not None
        pair = SchemeOffer(
            weight=OperandOffer.of(found.weight, ("scalar",)),
            activation=OperandOffer.of(found.activation, ("scalar",)),
            quantizes_inside=True,
        )
        return (
            KernelSpec(
                "acme/gemm", "linear", Capability(arch="any", schemes=(pair,)), "nowhere:at_all"
            ),
        )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    made = Registry.of({"acme": Acme()})
    monkeypatch.setattr(Registry, "folder", lambda _, name: tmp_path / "package" / name)
    return made


def of_acme(registry: Registry, **changes: Any) -> TuningRow:
    (spec,) = registry.kernels
    digest = kernel_digest(spec, registry.folder("acme"))
    fields: dict[str, Any] = {"pipeline": ("acme/gemm",), "digests": (("acme/gemm", digest),)}
    return row(**{**fields, **changes})


def us(registry: Registry, user: Path | None) -> float | None:
    table = gather(registry, HERE_CPU, user_folder=user).tuning
    return table.us(("acme/gemm",), "fp8_tensor", 64, 128, 16)


def test_the_users_times_lie_over_those_of_the_package(registry: Registry, tmp_path: Path) -> None:
    record_tuning([of_acme(registry)], "cpu", tmp_path / "package" / "acme" / "tuning")
    assert us(registry, None) == 10.0
    record_tuning([of_acme(registry, us=7.0)], "cpu", tmp_path / "user" / "tuning")
    assert us(registry, tmp_path / "user") == 7.0


@pytest.mark.parametrize(
    "old", [{"digests": (("acme/gemm", "0123456789abcdef"),)}, {"versions": (("torch", "1.0"),)}]
)
def test_a_stale_row_of_the_users_hides_none_that_the_package_ships(
    registry: Registry, tmp_path: Path, old: dict[str, Any]
) -> None:
    """The user has measured, then installed a later release with measurements of its own."""
    record_tuning([of_acme(registry)], "cpu", tmp_path / "package" / "acme" / "tuning")
    record_tuning([of_acme(registry, us=7.0, **old)], "cpu", tmp_path / "user" / "tuning")
    assert us(registry, tmp_path / "user") == 10.0


def test_a_package_does_not_time_the_kernels_of_others(registry: Registry, tmp_path: Path) -> None:
    other = row(pipeline=("rival/gemm",), digests=(("rival/gemm", "0123456789abcdef"),))
    record_tuning([other], "cpu", tmp_path / "package" / "acme" / "tuning")
    inventory = gather(registry, HERE_CPU)
    assert len(inventory.tuning) == 0
    assert "does not end in acme" in inventory.tuning_problems[0]


def test_times_of_another_release_are_stale(registry: Registry, tmp_path: Path) -> None:
    old = of_acme(registry, versions=(("torch", "1.0.0"),))
    record_tuning([old], "cpu", tmp_path / "tuning")
    table = gather(registry, HERE_CPU, user_folder=tmp_path).tuning
    assert (len(table), table.stale) == (0, 1)


def test_times_of_other_sources_are_stale(registry: Registry, tmp_path: Path) -> None:
    old = of_acme(registry, digests=(("acme/gemm", "0123456789abcdef"),))
    record_tuning([old], "cpu", tmp_path / "tuning")
    table = gather(registry, HERE_CPU, user_folder=tmp_path).tuning
    assert (len(table), table.stale) == (0, 1)


def test_a_broken_file_is_warned_of_once_and_never_used(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "cpu.json").write_text("{")
    with caplog.at_level(logging.WARNING, logger="quantmux.select"):
        found = [gather(registry, HERE_CPU, user_folder=tmp_path) for _ in range(2)]
    assert all("cut short" in inventory.tuning_problems[0] for inventory in found)
    assert len(caplog.records) == 1
