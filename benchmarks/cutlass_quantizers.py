"""The NVFP4 quantizers in the table of the CUTLASS backend: cases, lines of the summary, table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from triton_cases import geomean, us_text

from quantmux.bench.rows import BenchCase
from quantmux.config import QuantizeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 7168
PADDED = 7152
"""A width that is padded to the other."""

LARGE = 4096
"""From so many rows on, bytes decide."""

PEER = "quantize, then pad"


def cases() -> tuple[BenchCase, ...]:
    """Give NVFP4 of a full width and of one that is padded to it, g given and computed."""
    wanted = (
        ("nvfp4_static", WIDTH, "swizzled_128x4", (16, 4096, 8192)),
        ("nvfp4_static", PADDED, "swizzled_128x4", (16, 4096, 8192)),
        ("nvfp4", WIDTH, "swizzled_128x4", (16, 4096)),
        ("nvfp4_static", WIDTH, "row_major", (8192,)),
        ("nvfp4_static", WIDTH, "swizzled_128x4", (128,)),
    )
    return tuple(
        BenchCase(QuantizeConfig(operand=operand, n=n, padded_n=WIDTH, layout=layout), m)
        for operand, n, layout, ms in wanted
        for m in ms
    )


def summary(found: Any) -> list[str]:
    """Give the lines of the summary, from a `cutlass_markdown.Field` of the quantizers' rows."""
    ours = {case: row for case in found if (row := found.best(case, "cutlass/"))}
    if not ours:
        return ["| NVFP4 quantizer | ≥ 80 % of copy, M ≥ 4096 | not measured | |"]
    large = {c: row for c, row in ours.items() if row["m"] >= LARGE and "static" in row["scheme"]}
    percents = [row["pct_of_ceiling"] for row in large.values() if row["pct_of_ceiling"]]
    theirs = [
        triton["us"] / row["us"]
        for case, row in ours.items()
        if (triton := found.best(case, "triton/"))
    ]
    lines = []
    if percents:
        off = [found.best(case, "cutlass/", off=True) for case in large]
        slow = [row["pct_of_ceiling"] for row in off if row]
        without = f"{min(slow):.0f}–{max(slow):.0f} %" if slow else "–"
        most = f"{min(percents):.0f}–{max(percents):.0f} %"
        lines.append(f"| NVFP4 quantizer, M ≥ {LARGE} | ≥ 80 % of copy | {most} | {without} |")
    if theirs:
        mean, least = geomean(theirs), min(theirs)
        lines.append(
            f"| | (our Triton quantizer) | {mean:.2f}x ({least:.2f}x), {len(theirs)} cases | |"
        )
    padded = _padded(ours)
    if padded:
        lines.append(f"| | padded {PADDED} → {WIDTH} ≤ 3 % | {padded} | |")
    return lines


def table(found: Any) -> list[str]:
    """Give every case."""
    lines = [
        f"| M×n | scales | g | CUTLASS | PDL off | Triton | {PEER} | % of copy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found:
        row, off = found.best(case, "cutlass/"), found.best(case, "cutlass/", off=True)
        triton, first = found.best(case, "triton/"), found.first(case)
        cells = [
            f"{first['m']}×{first['n']}",
            _scales(case),
            "given" if "static" in first["scheme"] else "found",
            f"**{us_text(row['us'])}**" if row else "–",
            us_text(off["us"] if off else None),
            us_text(triton["us"] if triton else None),
            us_text(found.peer(case, PEER)),
            f"{row['pct_of_ceiling']:.0f}" if row and row["pct_of_ceiling"] else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"µs; every row is stored {WIDTH} columns wide."]


def _scales(case: str) -> str:
    named = re.search(r"swizzled_\w+|row_major", case)
    return named.group() if named else "–"


def _padded(ours: dict[str, Any]) -> str:
    """Give what padding adds at every M that was measured with and without, same layout."""
    plain = {
        row["m"]: row["us"]
        for case, row in ours.items()
        if row["n"] == WIDTH and row["scheme"] == "nvfp4_static" and "128x4" in case
    }
    found: Sequence[Any] = [row for row in ours.values() if row["n"] == PADDED]
    return ", ".join(
        f"{row['us'] / plain[row['m']] - 1:+.1%} at M = {row['m']}"
        for row in found
        if row["m"] in plain
    )
