"""Decode linears of the Triton table as a picture: time against bytes, ours and the peers.

python benchmarks/triton_picture.py RESULT.json PICTURE.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triton_cases import BLOCK_PEERS, ROW_PEERS, ROW_SCHEME, SHORT, Cases, Row

from quantmux.bench.svg import Svg

_M = 16
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _GAP = 1080, 470, 84, 60, 60, 70
_PANEL = (_WIDTH - _LEFT - _GAP - 20) / 2
_MOST_US = 30.0
_INK, _DIM, _GRID, _PAPER = "#1c2128", "#5b6470", "#e4e7eb", "#ffffff"
_OURS = ("#1f6feb", "#74a9f7")
_PEERS = ("#e8590c", "#9c36b5", "#868e96")
_PANELS = (
    ("FP8 channel/token", ROW_SCHEME, ROW_PEERS),
    ("FP8 block 128", "fp8_block128", BLOCK_PEERS),
)
Points = list[tuple[float, float, str]]


def picture(data: Mapping[str, Any]) -> str:
    """Give the picture: a panel per scheme, a point per N×K at M = 16, and the floor of the run."""
    svg = Svg(_WIDTH, _HEIGHT, _PAPER)
    title = f"Linears at M = {_M} on {data['title']}: time against bytes that must move"
    svg.text(_LEFT, 30, title, font_size=19, font_weight=600, fill=_INK)
    copy = data["ceilings"]["copy_gb_s"]
    line = f"cold L2, the product alone; {data['date']}; dashed: at the copy rate, {copy:,.0f} GB/s"
    svg.text(_LEFT, 52, line, font_size=13, fill=_DIM)
    for number, (name, scheme, peers) in enumerate(_PANELS):
        left = _LEFT + number * (_PANEL + _GAP)
        _panel(svg, left, name, _series(data["rows"], scheme, peers), copy)
    return str(svg)


def _series(rows: Sequence[Row], scheme: str, peers: Sequence[str]) -> dict[str, Points]:
    def pick(row: Row) -> bool:
        return bool(row["op"] == "linear" and row["scheme"] == scheme and row["m"] == _M)

    cases = Cases(rows, pick)
    found: dict[str, Points] = {"ours": [], "ours, PDL off": [], **{p: [] for p in peers}}
    for case in cases:
        row = cases.ours(case)
        if row is None:
            continue
        shape = f"{row['n']}×{row['k']}"
        mb = row["gb_s"] * row["us"] * 1e-3
        off = cases.ours(case, off=True)
        times = {"ours": row["us"], "ours, PDL off": off["us"] if off else None}
        for name, us in {**times, **{p: cases.peer(case, p) for p in peers}}.items():
            if us is not None:
                found[name].append((mb, us, shape))
    return {name: sorted(points) for name, points in found.items() if points}


def _panel(svg: Svg, left: float, name: str, series: Mapping[str, Points], copy: float) -> None:
    most = 1.08 * max((mb for points in series.values() for mb, *_ in points), default=1.0)
    low, high = _HEIGHT - _BOTTOM, _TOP

    def at(mb: float, us: float) -> tuple[float, float]:
        return left + mb / most * _PANEL, low - us / _MOST_US * (low - high)

    for tick in range(0, int(_MOST_US) + 1, 5):
        _, y = at(0, tick)
        svg.line(left, y, left + _PANEL, y, stroke=_GRID)
        svg.text(left - 8, y + 4, f"{tick}", font_size=12, fill=_DIM, text_anchor="end")
    for tick in range(0, int(most) + 1, 5):
        x, _ = at(tick, 0)
        svg.text(x, low + 18, f"{tick}", font_size=12, fill=_DIM, text_anchor="middle")
    svg.text(left + _PANEL / 2, low + 42, "MB", font_size=13, fill=_INK, text_anchor="middle")
    svg.text(left, high - 8, f"{name}, µs", font_size=14, font_weight=600, fill=_INK)
    svg.line(*at(0, 0), *at(most, most * 1e3 / copy), stroke=_INK, stroke_dasharray="6 4")
    colours = dict(zip([n for n in series if n.startswith("ours")], _OURS, strict=False))
    colours |= dict(zip([n for n in series if not n.startswith("ours")], _PEERS, strict=False))
    y = high + 12.0
    for label, points in series.items():
        colour = colours[label]
        svg.polyline([at(mb, us) for mb, us, _ in points], stroke=colour, stroke_width=2)
        for mb, us, shape in points:
            svg.circle(*at(mb, us), 3.6, f"{label}\n{shape}: {us:.2f} µs", fill=colour)
        x = left + _PANEL - 118
        svg.line(x, y - 4, x + 18, y - 4, stroke=colour, stroke_width=3)
        svg.text(x + 24, y, SHORT.get(label, label), font_size=12, fill=_INK)
        y += 17


if __name__ == "__main__":
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(picture(result), encoding="utf-8")
