"""The matrix: one row per kernel and scheme on one device, and its three renderings.

Whether a kernel serves is decided in dispatch, which fills the rows; here they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.capability.evidence import DECLARED, Evidence

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.rejection import Rejection

MARKS: Final = ("measured", "verified", "compiled", "declared", "stale", "failed")
"""What `Evidence.mark` may be, best first."""

_HEADER: Final = ("kernel", "op", "scheme", "tier", "serves", "evidence")


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One kernel asked for one scheme.

    Attributes:
        id: Kernel id.
        op: Op of the kernel.
        backend: Plugin that brings it.
        scheme: Scheme (linear) or operand (producers) it was asked for.
        tier: ``native``, ``emulated``, ``weight_only``, ``reference``; None when not eligible.
        eligible: It serves some shape of the scheme on the device.
        rejections: Why it does not.
        evidence: How far it has been proved on the device.
        experimental: It serves, behind every kernel of its tier that is not experimental.
    """

    id: str
    op: str
    backend: str
    scheme: str
    tier: str | None
    eligible: bool
    rejections: tuple[Rejection, ...] = ()
    evidence: Evidence = DECLARED
    experimental: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the row as JSON-ready data."""
        return {
            "id": self.id,
            "op": self.op,
            "backend": self.backend,
            "scheme": self.scheme,
            "tier": self.tier,
            "eligible": self.eligible,
            "experimental": self.experimental,
            "rejections": [rejection.to_dict() for rejection in self.rejections],
            "evidence": self.evidence.to_dict(),
        }


def matrix_dict(
    device: DeviceProfile, rows: Iterable[MatrixRow], problems: Sequence[str] = ()
) -> dict[str, Any]:
    """Give the matrix as JSON-ready data: ``{"device", "kernels": [...]}``, in a fixed order.

    Args:
        device: The device.
        rows: The rows.
        problems: Evidence that does not count and why, one line each.
    """
    return {
        "device": device.name,
        "kernels": [row.to_dict() for row in _in_order(rows)],
        "evidence_problems": list(problems),
    }


def matrix_text(
    device: DeviceProfile, rows: Iterable[MatrixRow], problems: Sequence[str] = ()
) -> str:
    """Give the matrix as aligned columns under a summary, with remarks on the evidence below."""
    ordered = _in_order(rows)
    if not ordered:
        return "\n".join([f"{device}: no kernel to show", *_remarks(ordered, problems)])
    table = [_HEADER, *(_cells(row) for row in ordered)]
    widths = [max(len(line[i]) for line in table) for i in range(len(_HEADER))]
    lines = [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    head = [f"{device}: {_summary(ordered)}", _evidence_summary(ordered), ""]
    return "\n".join([*head, *lines, *_remarks(ordered, problems)])


def matrix_markdown(
    device: DeviceProfile, rows: Iterable[MatrixRow], problems: Sequence[str] = ()
) -> str:
    """Give the matrix as a Markdown table under a heading, with remarks on the evidence below."""
    ordered = _in_order(rows)
    lines = [f"## {device}", "", f"{_summary(ordered)}; {_evidence_summary(ordered)}", ""]
    lines += [_markdown_line(_HEADER), _markdown_line(["---"] * len(_HEADER))]
    lines += [_markdown_line([cell.replace("|", "\\|") for cell in _cells(row)]) for row in ordered]
    remarks = [remark for remark in _remarks(ordered, problems) if remark]
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def _in_order(rows: Iterable[MatrixRow]) -> list[MatrixRow]:
    return sorted(rows, key=lambda row: (row.op, row.scheme, not row.eligible, row.id))


def _cells(row: MatrixRow) -> tuple[str, ...]:
    tier = (row.tier or "-") + (", experimental" if row.experimental else "")
    return (row.id, row.op, row.scheme, tier, _serves(row), row.evidence.text)


def _serves(row: MatrixRow) -> str:
    if row.eligible:
        return "yes"
    if not row.rejections:
        return "no"
    first, *others = row.rejections
    text = f"no: {first.code} (needs {first.required}, found {first.actual})"
    return text + (f" +{len(others)}" if others else "")


def _summary(rows: Sequence[MatrixRow]) -> str:
    kernels = {row.id for row in rows}
    serving = {row.id for row in rows if row.eligible}
    tiers = Counter(row.tier for row in rows if row.eligible and row.tier)
    text = f"{len(serving)} of {len(kernels)} kernels serve"
    shown = ", ".join(f"{count} {tier}" for tier, count in sorted(tiers.items()))
    return f"{text} ({shown})" if shown else text


def _evidence_summary(rows: Sequence[MatrixRow]) -> str:
    marks = {row.id: row.evidence.mark for row in rows}
    counts = Counter(marks.values())
    return "evidence: " + (", ".join(f"{counts[m]} {m}" for m in MARKS if counts[m]) or "none")


def _remarks(rows: Sequence[MatrixRow], problems: Sequence[str]) -> list[str]:
    """Say under the table what of the evidence is stale, speaks against, or does not count."""
    lines: dict[str, None] = {}
    for row in rows:
        evidence = row.evidence
        if evidence.failed:
            note = f": {evidence.note}" if evidence.note else ""
            lines[f"{row.id} {evidence.text}{note}"] = None
        if evidence.stale:
            lines[f"{row.id} is stale: {evidence.why_stale}"] = None
    lines.update(dict.fromkeys(f"does not count: {problem}" for problem in problems))
    return ["", *lines] if lines else []


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
