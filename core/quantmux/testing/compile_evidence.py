"""Outcomes of the check ``compiles`` as rows of the evidence ledger, per device profile."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import versions_here
from quantmux.testing.cell import Verdict
from quantmux.testing.compile_cells import CHECK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell, Outcome


def compiled_rows(
    results: Iterable[tuple[Cell, Outcome]], registry: Registry
) -> dict[str, tuple[EvidenceRow, ...]]:
    """Give the rows of each profile, by its name.

    Cells of other checks, and those that could not be compiled here, say nothing and give no row.
    A kernel that does not compile for what it claims gets a row that speaks against it.
    """
    found: dict[str, list[EvidenceRow]] = {}
    profiles = registry.profiles()
    today = datetime.now(UTC).date().isoformat()
    for cell, outcome in results:
        if cell.check != CHECK or outcome.verdict not in (Verdict.AGREES, Verdict.FAILS):
            continue
        spec = registry.get(cell.kernel)
        device = profiles[dict(cell.detail)["profile"]]
        good = outcome.verdict is Verdict.AGREES
        found.setdefault(device.name, []).append(
            EvidenceRow(
                kernel=spec.id,
                digest=kernel_digest(spec, registry.folder(spec.backend)),
                level=EvidenceLevel.COMPILED if good else EvidenceLevel.DECLARED,
                failed=0 if good else 1,
                date=today,
                versions=versions_here(spec),
                archs=(str(device.arch),) if good else (),
                note=outcome.reason,
                ran=False,
            )
        )
    return {name: tuple(rows) for name, rows in found.items()}
