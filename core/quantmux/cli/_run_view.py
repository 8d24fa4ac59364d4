"""The table of a run: one line per layer, or per group of layers that are alike."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.text import Text

from quantmux.cli._names import name_pattern
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
    console.print(Text(f"{source} on {device_line(device)}", style="bold"))
    if not rows:
        return
    alone = show_all or len(rows) <= _MANY
    groups = [[row] for row in rows] if alone else _groups(rows)
    console.print()
    columns: list[str | tuple[str, str]] = [("layer", "fold"), "N x K", ("M", "right")]
    if len(schemes) > 1:
        columns.append(("scheme", "fold"))
    columns += [
        "kernels",
        "tier",
        ("error", "right"),
        ("allowed", "right"),
        ("µs", "right"),
        "",
    ]
    made = table(*columns)
    for group in groups:
        made.add_row(*_cells(group, with_scheme=len(schemes) > 1))
    console.print(made)
    console.print(_summary(rows, schemes))


def _groups(rows: Sequence[Measured]) -> list[list[Measured]]:
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for row in rows:
        key = (name_pattern(row.name), row.n, row.k, row.m, row.scheme, row.pipeline, row.ok)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _cells(group: list[Measured], *, with_scheme: bool) -> list[str | Text]:
    worst = max(group, key=lambda row: row.rel_error / (row.tolerance or 1.0))
    name = worst.name
    if len(group) > 1:
        name = f"{name_pattern(name)} ({len(group)})"
    fallbacks = sum(len(row.fallbacks) for row in group)
    remarks = [] if worst.ok else ["wrong"]
    if worst.scheme_distance:
        remarks.append(f"{worst.scheme_distance:.1e} from scheme")
    if fallbacks:
        remarks.append(f"{fallbacks} fallback{'s' if fallbacks > 1 else ''}")
    cells: list[str | Text] = [name, f"{worst.n} x {worst.k}", str(worst.m)]
    if with_scheme:
        cells.append(worst.scheme)
    return [
        *cells,
        "\n-> ".join(worst.pipeline),
        tier_text(worst.tier),
        Text(f"{worst.rel_error:.1e}", style="" if worst.ok else "bold red"),
        f"{worst.tolerance:.1e}",
        _time(median(row.us for row in group)),
        Text(", ".join(remarks), style="" if worst.ok else "bold red"),
    ]


def _time(us: float) -> str:
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


def _summary(rows: Sequence[Measured], schemes: list[str]) -> Text:
    wrong = sum(not row.ok for row in rows)
    layers = len({row.name for row in rows})
    distance = max(row.scheme_distance for row in rows)
    parts = [
        f"\n{layers} layers of {', '.join(schemes)}, {len(rows)} runs: "
        + ("all within tolerance" if not wrong else f"{wrong} out of tolerance"),
        f"scheme distance at most {distance:.1e}" if distance else "scheme distance 0",
        f"{sum(len(row.fallbacks) for row in rows)} fallbacks",
    ]
    return Text("; ".join(parts), style="bold red" if wrong else "green")
