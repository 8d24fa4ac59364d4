"""The evidence ledger: what plugins ship and what this user has run, as evidence per kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.registry.digest import kernel_digest
from quantmux.registry.folders import row_folders
from quantmux.registry.ledger_files import read_evidence
from quantmux.registry.ledger_record import record_evidence
from quantmux.registry.ledger_versions import digest_change, version_change, versions_here
from quantmux.registry.row_files import device_file

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.ledger import EvidenceRow
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry

__all__ = ["Ledger", "read_ledger", "record_evidence", "versions_here"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is known of the kernels on one device.

    Attributes:
        evidence: Per kernel id; absent is ``declared``.
        problems: Files and rows that do not count and why, one line each.
        unknown: Rows of kernels that nobody registers today, one line each: no fault of theirs.
    """

    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_ledger(registry: Registry, device: DeviceProfile, user_folder: Path | None) -> Ledger:
    """Read ``evidence/<device>.json`` of every usable plugin, and the user's over them.

    Of two rows of one kernel counts the one that is not stale, then the failed one unless it is
    of an earlier day, then the higher level, then the later day. A plugin's file may speak of its
    own kernels only. What cannot be trusted is listed, logged once per file, and never counts.

    Args:
        registry: The plugins.
        device: Of this machine, or a named profile: then versions are not compared.
        user_folder: Folder that holds the user's ``evidence``; None reads what plugins ship.
    """
    kernels = {spec.id: spec for spec in registry.kernels}
    found: dict[str, list[EvidenceRow]] = {}
    problems: list[str] = []
    unknown: list[str] = []
    for owners, folder in row_folders(registry, user_folder):
        file = device_file(folder / "evidence", device.name)
        if file is None:
            continue
        content = read_evidence(file)
        problems += [f"{file}: {problem}" for problem in content.problems]
        for row, _ in content.rows:
            if owners and row.kernel.partition("/")[0] not in owners:
                whose = " or ".join(sorted(owners))
                problems.append(f"{file}: {row.kernel} is not a kernel of {whose}")
                continue
            spec = kernels.get(row.kernel)
            if spec is None:
                unknown.append(f"{file}: {row.kernel} is no kernel that is registered")
                continue
            found.setdefault(row.kernel, []).append(row)
    is_here = device.is_present or device.arch.vendor == "cpu"

    def judge(kernel: str) -> Evidence:
        spec = kernels[kernel]
        folder = registry.folder(spec.backend)
        judged = (_evidence(row, spec, folder, is_here=is_here) for row in found[kernel])
        return reduce(_stronger, judged)

    return Ledger(_Judged(found, judge), tuple(problems), tuple(unknown))


class _Judged(Mapping[str, Evidence]):
    """Evidence per kernel, judged when it is first asked for.

    Digests read every source of a kernel; a selection that demands no evidence shall not wait for
    those of all kernels.
    """

    def __init__(self, rows: Mapping[str, object], judge: Callable[[str], Evidence]) -> None:
        self._rows = rows
        self._judge = judge
        self._known: dict[str, Evidence] = {}

    def __getitem__(self, kernel: str) -> Evidence:
        found = self._known.get(kernel)
        if found is None:
            if kernel not in self._rows:
                raise KeyError(kernel)
            found = self._known[kernel] = self._judge(kernel)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _evidence(
    row: EvidenceRow, spec: KernelSpec, folder: Path | None, *, is_here: bool
) -> Evidence:
    why = digest_change(row.digest, kernel_digest(spec, folder))
    if not why and is_here:
        why = version_change(spec, row.versions)
    return Evidence(
        level=EvidenceLevel.DECLARED if row.failed else row.level,
        stale=bool(why),
        cases=row.cases,
        worst_error=row.worst_error,
        date=row.date or None,
        why_stale=why,
        driver=row.driver,
        versions=tuple(sorted(row.versions.items())),
        refused=row.refused,
        failed=row.failed,
        archs=row.archs,
        note=row.note,
    )


def _stronger(one: Evidence, other: Evidence) -> Evidence:
    if one.stale != other.stale:
        return other if one.stale else one
    if bool(one.failed) != bool(other.failed):
        against, for_it = (one, other) if one.failed else (other, one)
        # of the same day it is not known which came last: what speaks against counts
        return against if (against.date or "") >= (for_it.date or "") else for_it
    return max(other, one, key=lambda e: (e.level.rank, e.date or ""))
