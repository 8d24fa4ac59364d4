"""The stalls of the picture: a bar per way of launching, a piece per compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.bench.seeds.plot_style import COLOURS, DIM, GRID, INK, NUMBER, PAPER, Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.seeds.plot_points import Stall
    from quantmux.bench.svg import Svg

_HEAD: Final = 44
_FOOT: Final = 36
_BAR: Final = 18
_LETTER: Final = 7.5
"""Width of a letter of 12 pixels in a wide font."""

_FILLS: Final = {
    "before": COLOURS["before/ours"],
    "seed": COLOURS["seed/ours"],
    "ours": "#2f9e44",
}


def draw_stalls(svg: Svg, place: Box, found: Sequence[Stall]) -> None:
    """Draw what first calls wait for the compiler, of the last case: one rank of eight."""
    case = found[-1].case
    bars = [stall for stall in found if stall.case == case]
    head, _, _ = case.partition(" first")
    y = place.y + 14
    svg.text(place.x, y, "#42849", font_size=14, font_weight=600, fill=DIM)
    title = "first calls wait for the compiler"
    svg.text(place.x + NUMBER, y, title, font_size=14, font_weight=600, fill=INK)
    text = f"empty Triton cache, {head}; a piece is one compilation"
    svg.text(place.x, place.y + 31, text, font_size=12, fill=DIM)
    box = Box(place.x + 8, place.y + _HEAD, place.w - 22, place.h - _HEAD - _FOOT)
    most = max(1.0, *(bar.total_ms for bar in bars)) * 1.02
    _seconds(svg, box, most)
    step = box.h / len(bars)
    for number, bar in enumerate(bars):
        _bar(svg, box, box.y + (number + 0.64) * step, bar, box.w / most)


def _bar(svg: Svg, box: Box, middle: float, bar: Stall, per_ms: float) -> None:
    top, x = middle - _BAR / 2, box.x
    some = "variant" if bar.variants == 1 else "variants"
    text = f"{bar.variants} {some}, {bar.total_ms / 1e3:.2f} s"
    svg.text(x + 4, top - 6, bar.way, font_size=12, fill=INK)
    svg.text(box.right, top - 6, text, font_size=12, font_weight=600, fill=INK, text_anchor="end")
    for tokens, ms in bar.parts:
        width = ms * per_ms
        corners = [(x, top), (x + width, top), (x + width, top + _BAR), (x, top + _BAR)]
        tip = f"{bar.way}: the first call with T = {tokens} waits {ms:.0f} ms"
        svg.polygon(corners, tip, fill=_FILLS.get(bar.kind, DIM), stroke=PAPER, stroke_width=1.5)
        label = f"T={tokens}"
        if width > _LETTER * len(label):
            svg.text(
                x + width / 2, middle + 4, label, font_size=11, fill=PAPER, text_anchor="middle"
            )
        x += width


def _seconds(svg: Svg, box: Box, most: float) -> None:
    step = next(s for s in (100, 200, 500, 1000, 2000, 5000, 10000, 10**9) if most / s <= 6)
    tick = 0
    while tick <= most:
        x = box.x + tick / most * box.w
        svg.line(x, box.y, x, box.bottom, stroke=GRID)
        label = f"{tick / 1e3:g} s"
        svg.text(x, box.bottom + 16, label, font_size=12, fill=DIM, text_anchor="middle")
        tick += step
    svg.line(box.x, box.y, box.x, box.bottom, stroke=DIM)
