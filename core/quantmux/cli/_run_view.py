"""The table of a run: one line per layer, or per group of layers that are alike."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.text import Text

from quantmux.cli._names import name_pattern, two_lines
from quantmux.cli._render import device_line, out, table, tier_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.capability.device import DeviceProfile
    from quantmux.cli._measure import Measured

_MANY = 24
"""Rows above which layers that are alike share a line."""


def show_run(
    source: str, device: DeviceProfile, rows: Sequence[Measured], *, show_all: bool
) -> None:
    """Print the table and one line of summary."""
    console = out()
    schemes = list(dict.fromkeys(row.scheme for row in rows))
    scheme = f", scheme {schemes[0]}" if len(schemes) == 1 else ""
    console.print(Text(f"{source} on {device_line(device)}{scheme}", style="bold"))
    if not rows:
        return
    alone = show_all or len(rows) <= _MANY
    groups = [[row] for row in rows] if alone else _groups(rows)
    console.print()
    columns: list[str | tuple[str, str]] = [("layer", "fold"), "N×K", ("M", "right")]
    if len(schemes) > 1:
        columns.append(("scheme", "fold"))
    columns += ["kernels", "tier", ("error", "right"), ("limit", "right"), ("µs", "right")]
    remarks = [_remarks(group) for group in groups]
    if any(remarks):
        columns.append(("", "fold"))
    made = table(*columns)
    for group, remark in zip(groups, remarks, strict=True):
        cells = _cells(group, with_scheme=len(schemes) > 1)
        last = [Text(remark, style="" if group[0].ok else "bold red")] if any(remarks) else []
        made.add_row(*cells, *last)
    console.print(made)
    console.print(_summary(rows, schemes))


def _groups(rows: Sequence[Measured]) -> list[list[Measured]]:
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for row in rows:
        key = (name_pattern(row.name), row.n, row.k, row.m, row.scheme, row.pipeline, row.ok)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _remarks(group: list[Measured]) -> str:
    remarks = [] if group[0].ok else ["wrong"]
    distance = max(row.scheme_distance for row in group)
    if distance:
        remarks.append(f"{_short(distance)} from scheme")
    fallbacks = _fallbacks(group)
    if fallbacks:
        remarks.append(_count(fallbacks))
    return ", ".join(remarks)


def _cells(group: list[Measured], *, with_scheme: bool) -> list[str | Text]:
    worst = max(group, key=lambda row: row.rel_error / (row.tolerance or 1.0))
    name = two_lines(worst.name)
    if len(group) > 1:
        name = f"{two_lines(name_pattern(worst.name))} ({len(group)})"
    cells: list[str | Text] = [name, f"{worst.n}×{worst.k}", str(worst.m)]
    if with_scheme:
        cells.append(worst.scheme)
    return [
        *cells,
        "\n-> ".join(worst.pipeline),
        tier_text(worst.tier),
        Text(_short(worst.rel_error), style="" if worst.ok else "bold red"),
        _short(worst.tolerance),
        _time(median(row.us for row in group)),
    ]


def _fallbacks(rows: Sequence[Measured]) -> int:
    """Count events once per layer: a kernel that did not build was missed at every M."""
    return len({(row.name, *sorted(e.items(), key=str)) for row in rows for e in row.fallbacks})


def _count(fallbacks: int) -> str:
    return f"{fallbacks} fallback" + ("" if fallbacks == 1 else "s")


def _short(value: float) -> str:
    """Give two digits, ``1.7e-3``; 0 as it is."""
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _time(us: float) -> str:
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


def _summary(rows: Sequence[Measured], schemes: list[str]) -> Text:
    wrong = sum(not row.ok for row in rows)
    layers = len({row.name for row in rows})
    distance = max(row.scheme_distance for row in rows)
    parts = [
        f"\n{layers} layers of {', '.join(schemes)}, {len(rows)} runs: "
        + ("all within tolerance" if not wrong else f"{wrong} out of tolerance"),
        f"scheme distance at most {_short(distance)}" if distance else "scheme distance 0",
        _count(_fallbacks(rows)),
    ]
    return Text("; ".join(parts), style="bold red" if wrong else "green")
