"""explain: a selection in plain text, every registered kernel of the op with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.rejection import Rejection
    from quantmux.dispatch.selection import Selection


def explain(selection: Selection) -> str:
    """Tell what was taken, what was not and why, the nearest miss, and whence each setting."""
    lines = [f"{selection.config}", f"on {selection.device.title} ({selection.device.arch})", ""]
    if selection.ranges:
        lines.append("taken")
        for choice in selection.ranges:
            span = m_span(choice.m_min, choice.m_max)
            kind = f"{choice.tier}, approximate" if choice.pipeline.is_approximate else choice.tier
            lines.append(f"  {span:<14} {choice.pipeline}   [{kind}]")
    else:
        lines.append("taken: nothing can serve")
    lines += ["", "not taken"]
    lines += _rejections(selection.rejected)
    if selection.producers:
        lines += ["", "producers that cannot stand before it"]
        lines += _rejections(selection.producers)
    if selection.nearest_miss:
        lines += ["", f"nearest miss: {selection.nearest_miss.text}"]
    if selection.assumptions:
        lines += ["", "assumed present: " + ", ".join(selection.assumptions)]
    lines += ["", "settings"]
    for name, entry in selection.settings.to_dict().items():
        lines.append(f"  {name:<18} {_value(entry['value']):<40} from {entry['origin']}")
    return "\n".join(lines)


def m_span(first: int, last: int | None) -> str:
    """Give a range of M as text."""
    if last is None:
        return "any M" if first <= 1 else f"M >= {first}"
    return f"M = {first}" if first == last else f"M {first}..{last}"


def _rejections(rejected: Mapping[str, tuple[Rejection, ...]]) -> list[str]:
    items = sorted(rejected.items())
    if not items:
        return ["  (none)"]
    width = max(len(name) for name, _ in items)
    lines: list[str] = []
    for name, reasons in items:
        label = name
        for r in reasons:
            span = "" if (r.m_min, r.m_max) == (1, None) else f" at {m_span(r.m_min, r.m_max)}"
            text = f"outranked by {r.required}" if r.code == "outranked" else f"{r.code}: {r.text}"
            hint = f" ({r.hint})" if r.hint else ""
            lines.append(f"  {label:<{width}}  {text}{span}{hint}")
            label = ""
    return lines


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value) or "(none)"
    return "(none)" if value is None else str(value)
