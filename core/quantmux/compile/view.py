"""The report for people: a table of sites, and below it why the others were left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from quantmux.compile.report import FusionReport, Site
    from quantmux.runtime.traced.legality import Refusal, Segment


def show(report: FusionReport, console: Console) -> None:
    """Print a report."""
    head = (
        f"{_count(report.graphs, 'graph')}, {_count(len(report.sites), 'site')}: "
        f"{len(report.taken)} taken, {len(report.refused)} refused"
    )
    console.print(Text(head, style="bold"))
    if report.from_cache:
        console.print(
            f"{_count(report.from_cache, 'graph')} came from inductor's cache, rewritten there "
            "before; fusion_pass(cache=False) compiles anew, and lists their sites, too",
            soft_wrap=True,
        )
    for title, sites in (("taken", report.taken), ("refused", report.refused)):
        if sites:
            console.print(Text(f"\n{title}", style="bold"))
            console.print(_table(sites))


def _table(sites: tuple[Site, ...]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("  graph", "site", "into"):
        made.add_column(name, no_wrap=name != "into", overflow="fold")
    made.add_column("by" if sites[0].taken else "why", overflow="fold", ratio=1)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for site in sites:
        where = f"{site.pattern}\n{site.line or site.node}"
        row = where, "\n".join(site.into), "\n".join(_why(site))
        rows.setdefault(row, []).append(site.graph)
    for (where, into, why), graphs in rows.items():
        made.add_row("  " + _numbers(graphs), where, into, why)
    return made


def _numbers(graphs: list[int]) -> str:
    """Give the graphs that have a row in common, and how often one has it."""
    counts = {number: graphs.count(number) for number in graphs}
    return " ".join(str(n) if count == 1 else f"{n} ({count}x)" for n, count in counts.items())


def _why(site: Site) -> list[str]:
    return [*(_by(site) if site.taken else _refusals(site)), *site.reasons]


def _by(site: Site) -> list[str]:
    """Give the producers per range of M, and what was taken in another's place."""
    same: list[tuple[list[str], list[Segment]]] = []
    for segment in site.segments:
        lines = [_producers(segment)]
        lines += (
            f"  {consumer.pipeline.main.id} instead of {consumer.instead_of}"
            for consumer in segment.consumers
            if consumer.instead_of is not None
        )
        if same and same[-1][0] == lines:
            same[-1][1].append(segment)
        else:
            same.append((lines, [segment]))
    found: list[str] = []
    for (first, *rest), where in same:
        found += [_span(site, where) + first, *rest]
    return found


def _refusals(site: Site) -> list[str]:
    """Give one line per kernel, with its ranges of M where they are not all."""
    unfused = [segment for segment in site.segments if not segment.is_fused]
    by_kernel: dict[str, dict[str, list[Segment]]] = {}
    for segment in unfused:
        said: dict[str, list[str]] = {}
        for refusal in segment.refusals:
            said.setdefault(refusal.who, []).append(_rejection(refusal))
        for who, reasons in said.items():
            text = "; ".join(dict.fromkeys(reasons))
            by_kernel.setdefault(who, {}).setdefault(text, []).append(segment)
    lines: list[str] = []
    for who, texts in by_kernel.items():
        for text, where in texts.items():
            is_all = len(where) == len(site.segments)
            lines.append(f"{'' if is_all else _span(site, where)}{who}: {text}")
    return lines


def _producers(segment: Segment) -> str:
    if not segment.groups:
        return "not fused"
    parts = []
    for group in segment.groups:
        kernels = dict.fromkeys(
            choice.pipeline.main.id
            for choice in group.selection.ranges
            if segment.overlaps(choice.m_min, choice.m_max)
        )
        count = len(group.members)
        parts.append(" | ".join(kernels) + (f" for {count}" if count > 1 else ""))
    return ", ".join(parts)


def _rejection(refusal: Refusal) -> str:
    why = refusal.rejection
    hint = f" ({why.hint})" if why.hint else ""
    return f"{why.code}: {why.text}{hint}"


def _span(site: Site, segments: list[Segment]) -> str:
    """Give the Ms of neighbouring segments that the graph can have."""
    first, last = site.rows
    low = max(first, segments[0].m_min)
    end = segments[-1].m_max
    high = end if last is None else min(last, last if end is None else end)
    if low <= 1 and high is None:
        return "any M: "
    if high is None:
        return f"M >= {low}: "
    return f"M = {low}: " if low >= high else f"M {low}..{high}: "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


__all__ = ["show"]
