"""Recording evidence: rows of a run laid over those that are kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import SCHEMA, EvidenceRow
from quantmux.errors import ConfigError
from quantmux.registry.ledger_files import EVIDENCE, parse_evidence
from quantmux.registry.ledger_versions import same_release
from quantmux.registry.row_files import kept_text, rewriting, spare, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def record_evidence(rows: Iterable[EvidenceRow], device_name: str, folder: Path) -> Path:
    """Lay the rows of a run over those kept in ``folder/<device>.json``; gives the file.

    Processes that record at once wait for each other; a reader sees the old file or the new one.
    Rows of other kernels stay. A row of the same kernel is replaced, except that, for one digest,

    - ``compiled`` without cases adds its architectures and takes nothing away;
    - ``measured`` without cases raises a row that is ``verified`` under the same releases; where
      there is none it is dropped, since a time proves no number;
    - ``verified`` leaves a row ``measured`` that is, under the same releases;
    - a smaller run under the same releases, of fewer cases than had not failed, does not wipe out a
      failure.

    What was not to be trusted is kept as ``<device>.json.bad-<n>``.

    Args:
        rows: What the run has shown; an empty ``date`` becomes today.
        device_name: Name of the device's profile.
        folder: A plugin's ``evidence`` folder, or the one in the user's folder.

    Raises:
        ConfigError: A row says what no run can show, or the device's name is no name.
        QuantmuxError: The folder cannot be written, or holds a file of a later version
            (code ``evidence_write``); what stood there stands.
    """
    given = [_checked(row) for row in rows]
    with rewriting(folder, device_name, EVIDENCE) as file:
        merged = {row.kernel: (row, raw) for row, raw in _kept(file, device_name)}
        for row in given:
            old = merged.get(row.kernel)
            new = _merge(old[0] if old else None, row)
            if new is not None and (old is None or new != old[0]):
                merged[row.kernel] = (new, new.sealed(device_name))
        ordered = [raw for _, (_, raw) in sorted(merged.items())]
        write_whole(file, _text(device_name, ordered))
    return file


def _checked(row: EvidenceRow) -> EvidenceRow:
    changes: dict[str, Any] = {"note": " ".join(row.note.split())}
    if not row.date:
        changes["date"] = datetime.now(UTC).date().isoformat()
    if row.failed:
        changes["level"] = EvidenceLevel.DECLARED
    found = row.replace(**changes)
    if found.problem and not _is_time_only(found):
        raise ConfigError(
            f"the evidence of {row.kernel} says what no run can have shown",
            facts=[found.problem],
            code="evidence",
        )
    return found


def _kept(file: Path, device: str) -> tuple[tuple[EvidenceRow, dict[str, Any]], ...]:
    text = kept_text(file)
    if text is None:
        return ()
    content = parse_evidence(text, device)
    spare(file, content.problems, is_newer=content.is_newer, kind=EVIDENCE)
    return content.rows


def _merge(old: EvidenceRow | None, new: EvidenceRow) -> EvidenceRow | None:
    """Give the row to keep, None for none."""
    if _is_time_only(new):
        return _with_time(old, new)
    if old is None or old.digest != new.digest:
        return new
    if not new.cases and new.level is EvidenceLevel.COMPILED:
        return _with_archs(old, new)
    if not _same_releases(old, new):
        return new
    if old.failed and not new.failed and new.total < old.cases + old.refused:
        EVIDENCE.log.warning(
            "%s keeps its failure (%d of %d cases): %d cases are too few to lift it",
            old.kernel,
            old.failed,
            old.total,
            new.total,
        )
        return old
    level = new.level
    if not old.failed and not new.failed and old.level.rank > level.rank:
        level = old.level
    return new.replace(archs=_archs(old, new), level=level)


def _with_time(old: EvidenceRow | None, new: EvidenceRow) -> EvidenceRow | None:
    if old is None or old.digest != new.digest or not _same_releases(old, new):
        return old
    if old.failed or not old.level.reaches(EvidenceLevel.VERIFIED):
        return old
    return old.replace(level=EvidenceLevel.MEASURED, date=new.date, driver=new.driver)


def _with_archs(old: EvidenceRow, new: EvidenceRow) -> EvidenceRow:
    ran = old.ran and (old.failed or old.level.reaches(EvidenceLevel.VERIFIED))
    return (old if ran else new).replace(archs=_archs(old, new))


def _archs(old: EvidenceRow, new: EvidenceRow) -> tuple[str, ...]:
    return tuple(sorted({*old.archs, *new.archs}))


def _is_time_only(row: EvidenceRow) -> bool:
    return row.level is EvidenceLevel.MEASURED and not row.cases


def _same_releases(old: EvidenceRow, new: EvidenceRow) -> bool:
    both = old.versions.keys() & new.versions.keys()
    return all(same_release(old.versions[name], new.versions[name]) for name in both)


def _text(device: str, rows: list[dict[str, Any]]) -> str:
    data = {"schema": SCHEMA, "device": device, "rows": rows}
    return json.dumps(data, indent=1, allow_nan=False) + "\n"
