"""A run in a few lines, and as JSON."""

from __future__ import annotations

import platform
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from quantmux.registry.ledger import versions_here
from quantmux.testing.cell import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.testing.cell import Cell, Outcome

_HEAD = (
    "kernel",
    "agrees",
    "refuses",
    "not here",
    "fails",
    "worst error",
    "refused or not here by",
)

_TOTALS = {
    Verdict.AGREES: "agree",
    Verdict.REFUSES: "refused",
    Verdict.NOT_HERE: "not here",
    Verdict.FAILS: "failed",
}


def summary_lines(
    results: Iterable[tuple[Cell, Outcome]], expected: int, seconds: float
) -> tuple[str, ...]:
    """Give a table with a line per kernel, and the totals.

    Args:
        results: Cells and what became of them.
        expected: Cells that there are; fewer results are said to be a part.
        seconds: Time of the run.
    """
    found = list(results)
    tallies = tally(found)
    rows = [_HEAD, *(_line(name, each) for name, each in tallies.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, len(_HEAD) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    totals = Counter(outcome.verdict for _, outcome in found)
    counts = ", ".join(f"{totals[v]} {word}" for v, word in _TOTALS.items())
    part = f" of {expected}" if len(found) != expected else ""
    return (*lines, f"{len(found)}{part} cells in {seconds:.1f} s: {counts}")


def tally(results: Iterable[tuple[Cell, Outcome]]) -> dict[str, dict[str, Any]]:
    """Give per kernel: verdicts by count, refusals by code, checks, worst error, first failure."""
    found: dict[str, dict[str, Any]] = {}
    for cell, outcome in results:
        own = found.setdefault(
            cell.kernel,
            {
                "verdicts": Counter(),
                "refused": Counter(),
                "not_here": Counter(),
                "checks": {},
                "worst_error": None,
                "seconds": 0.0,
                "failures": [],
            },
        )
        own["verdicts"][str(outcome.verdict)] += 1
        own["checks"].setdefault(cell.check, Counter())[str(outcome.verdict)] += 1
        own["seconds"] += outcome.seconds
        if outcome.verdict is Verdict.REFUSES:
            own["refused"][outcome.code] += 1
        elif outcome.verdict is Verdict.NOT_HERE:
            own["not_here"][outcome.code] += 1
        elif outcome.verdict is Verdict.FAILS:
            own["failures"].append({"id": cell.id, **outcome.to_dict()})
        elif outcome.error is not None:
            own["worst_error"] = max(own["worst_error"] or 0.0, outcome.error)
    return found


def report_dict(
    results: Iterable[tuple[Cell, Outcome]],
    registry: Registry,
    device: DeviceProfile,
    seed: int,
) -> dict[str, Any]:
    """Give everything as JSON-ready data: machine, tallies, every outcome."""
    found = list(results)
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in {cell.kernel for cell, _ in found}:
        versions |= versions_here(registry.get(name))
    return {
        "device": device.name,
        "title": device.title,
        "arch": str(device.arch),
        "driver": device.driver,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": seed,
        "versions": dict(sorted(versions.items())),
        "kernels": tally(found),
        "outcomes": [
            {"id": c.id, "kernel": c.kernel, "check": c.check, "label": c.label, **o.to_dict()}
            for c, o in found
        ],
    }


def _line(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    verdicts: Counter[str] = each["verdicts"]
    worst = each["worst_error"]
    codes = each["refused"] + each["not_here"]
    return (
        name,
        *(str(verdicts[str(v)]) for v in Verdict),
        "-" if worst is None else f"{worst:.2g}",
        ", ".join(f"{code} {count}" for code, count in sorted(codes.items())),
    )
