"""One selection for people: taken, not taken and why, the nearest miss, settings and origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from quantmux.cli._render import (
    device_line,
    heading,
    m_text,
    out,
    reason_text,
    table,
    tier_text,
    value_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table

    from quantmux.capability.rejection import Rejection
    from quantmux.dispatch.selection import Selection


def show_selection(selection: Selection, m: int | None) -> None:
    """Print a selection; ``m`` is the number of rows that was asked for, None for all."""
    console = out()
    rows = "" if m is None else f", M = {m}"
    console.print(Text(f"{selection.config}{rows}", style="bold"))
    console.print(device_line(selection.device))
    console.print(heading("taken"))
    console.print(_taken(selection))
    outranked = {
        name: reasons
        for name, reasons in selection.rejected.items()
        if any(r.code == "outranked" for r in reasons)
    }
    lost = {n: reasons for n, reasons in selection.rejected.items() if n not in outranked}
    if outranked:
        console.print(heading("could serve, but another goes first"))
        console.print(_outranked(outranked))
    if lost:
        console.print(heading("cannot serve"))
        console.print(_rejections(lost))
    if selection.producers:
        console.print(heading("producers that cannot stand before it"))
        console.print(_rejections(selection.producers))
    _notes(console, selection)
    console.print(heading("settings"))
    console.print(_settings(selection))


def _taken(selection: Selection) -> Table | Text:
    if not selection.ranges:
        return Text("  nothing: no kernel can serve", style="bold red")
    rows = table("  for", ("pipeline", "fold"), "tier", "weights", ("launches", "right"))
    for choice in selection.ranges:
        pipeline = choice.pipeline
        rows.add_row(
            "  " + (m_text(choice.m_min, choice.m_max) or "any M"),
            str(pipeline),
            tier_text(choice.tier).append(", approximate" * pipeline.is_approximate),
            pipeline.weight_layout if selection.config.op == "linear" else "-",
            "composite" if pipeline.launches is None else str(pipeline.launches),
        )
    return rows


def _outranked(rejected: Mapping[str, tuple[Rejection, ...]]) -> Table:
    rows = table("  kernel", ("what goes first", "fold"))
    for name, reasons in sorted(rejected.items()):
        winners: dict[str, list[str]] = {}
        limits = [reason_text(r) for r in reasons if r.code != "outranked"]
        for r in reasons:
            if r.code == "outranked":
                winners.setdefault(r.required, []).append(m_text(r.m_min, r.m_max) or "any M")
        text = [f"{winner} for {', '.join(spans)}" for winner, spans in winners.items()]
        times = [r.hint for r in reasons if r.code == "outranked" and r.hint]
        rows.add_row(f"  {name}", "\n".join([*text, *dict.fromkeys(times), *limits]))
    return rows


def _rejections(rejected: Mapping[str, tuple[Rejection, ...]]) -> Table:
    rows = table("  kernel", "code", ("why", "fold"))
    for name, reasons in sorted(rejected.items()):
        label = f"  {name}"
        for r in reasons:
            why = Text(reason_text(r))
            if r.hint:
                why.append(f"\nnext: {r.hint}", style="dim")
            rows.add_row(label, str(r.code), why)
            label = ""
    return rows


def _notes(console: Console, selection: Selection) -> None:
    if selection.nearest_miss is not None:
        console.print(heading("nearest miss"))
        console.print(f"  {selection.nearest_miss.text}", soft_wrap=False)
    if selection.assumptions:
        console.print(heading("taken as present, since the device is not here"))
        for line in selection.assumptions:
            console.print(f"  {line}")


def _settings(selection: Selection) -> Table:
    rows = table("  name", ("value", "fold"), ("from", "fold"))
    for name, entry in selection.settings.to_dict().items():
        rows.add_row(f"  {name}", value_text(entry["value"]), str(entry["origin"]))
    return rows
