"""Outcomes of a run as rows of the evidence ledger: only a whole run proves a kernel."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from quantmux.capability.evidence import EvidenceLevel
from quantmux.capability.ledger import EvidenceRow
from quantmux.registry.digest import kernel_digest
from quantmux.registry.ledger import versions_here
from quantmux.testing.cell import Verdict
from quantmux.testing.compile_cells import CHECK as COMPILES
from quantmux.testing.engine import POISONED, cells

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell, Outcome

Results = list[tuple["Cell", "Outcome"]]


def evidence_rows(
    results: Iterable[tuple[Cell, Outcome]], registry: Registry, device: DeviceProfile
) -> tuple[EvidenceRow, ...]:
    """Give one row per kernel of which the run says something that may be kept.

    ``verified`` needs every cell of the kernel on this device, at least one of them that agreed
    with the reference, and none that failed. Cells of the check ``compiles`` are about other
    devices, need none, and may be missing (``quantmux build`` asks them). A failure is kept even
    from part of the cells; parts without one prove nothing and give no row (`unrecorded` says so).

    Args:
        results: Cells and what became of them, of any kernels, in any order.
        registry: The plugins they were run with.
        device: Where.
    """
    day = datetime.now(UTC).date().isoformat()
    return tuple(
        _row(registry.get(kernel_id), found, registry, device, day)
        for kernel_id, found in sorted(_by_kernel(results).items())
        if not _why_not(kernel_id, found, registry, device)
    )


def unrecorded(
    results: Iterable[tuple[Cell, Outcome]], registry: Registry, device: DeviceProfile
) -> dict[str, str]:
    """Give the kernels of a run that get no row of evidence, each with why in one line."""
    found = {
        kernel_id: _why_not(kernel_id, own, registry, device)
        for kernel_id, own in sorted(_by_kernel(results).items())
    }
    return {kernel_id: why for kernel_id, why in found.items() if why}


def _why_not(kernel_id: str, found: Results, registry: Registry, device: DeviceProfile) -> str:
    ran = {cell.id for cell, outcome in found if not _is_echo(outcome)}
    verdicts = Counter(o.verdict for c, o in found if c.id in ran)
    spec = registry.get(kernel_id)
    folder = registry.folder(spec.backend)
    if kernel_digest.__wrapped__(spec, folder) != kernel_digest(spec, folder):
        return "its sources changed during the run: nobody knows which of them it has shown"
    if verdicts[Verdict.FAILS]:
        return ""
    own = cells(registry, device, kernels=(kernel_id,))
    every = {cell.id for cell in own if cell.check != COMPILES}
    missing = every - ran
    if missing:
        return f"{len(every) - len(missing)} of its {len(every)} cells were run"
    if not _agreed(found):
        return "never run: it cannot run here, or serves no case"
    return ""


def _row(
    spec: KernelSpec, found: Results, registry: Registry, device: DeviceProfile, day: str
) -> EvidenceRow:
    failed = [(c, o) for c, o in found if o.verdict is Verdict.FAILS and not _is_echo(o)]
    agreed = _agreed(found)
    errors = [o.error for _, o in agreed if o.error is not None]
    note = f"{failed[0][0].check}[{failed[0][0].label}]: {failed[0][1].reason}" if failed else ""
    return EvidenceRow(
        kernel=spec.id,
        digest=kernel_digest(spec, registry.folder(spec.backend)),
        level=EvidenceLevel.DECLARED if failed else EvidenceLevel.VERIFIED,
        cases=len(agreed),
        refused=sum(o.verdict is Verdict.REFUSES for _, o in found),
        failed=len(failed),
        worst_error=max(errors, default=None),
        date=day,
        driver=device.driver,
        versions=versions_here(spec),
        note=note[:300],
    )


def _agreed(found: Results) -> Results:
    """Give the cells in which the kernel ran and was right; data alone proves no number."""
    return [
        (cell, outcome)
        for cell, outcome in found
        if outcome.verdict is Verdict.AGREES and cell.case is not None
    ]


def _is_echo(outcome: Outcome) -> bool:
    """Tell whether a cell was not run because an earlier one had lost the CUDA context."""
    return outcome.code == POISONED and outcome.reason.startswith("not run:")


def _by_kernel(results: Iterable[tuple[Cell, Outcome]]) -> dict[str, Results]:
    found: dict[str, Results] = {}
    for cell, outcome in results:
        found.setdefault(cell.kernel, []).append((cell, outcome))
    return found
