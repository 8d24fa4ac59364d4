"""One experiment of the picture: ratios by number of rows, the noise, and the report's claim."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Final

from quantmux.bench.seeds.plot_points import SERIES, Point, Shown
from quantmux.bench.seeds.plot_style import (
    COLOURS,
    DIM,
    GRID,
    INK,
    NOISE,
    NUMBER,
    PAPER,
    Box,
    Scale,
)
from quantmux.bench.seeds.ratios import geomean

if TYPE_CHECKING:
    from quantmux.bench.svg import Svg

HEAD: Final = 58
"""Above the plot: title, what the report says, means."""

_FOOT: Final = 36
_LEFT: Final = 40
_RIGHT: Final = 14
_CLAIM: Final = 34
"""Beside the plot, for the claim."""

_MANY: Final = 9
_FEW: Final = 2
"""So few points need no line for their mean."""

_TITLE_LETTERS: Final = 38
_LETTERS: Final = 56

_TITLES: Final = {
    "placeholder": "no placeholder for scales",
    "padded_weights": "padded FP8 linear",
    "silu_mul": "SiLU·mul + FP8 quantization",
    "padded_nvfp4": "NVFP4 into a padded width",
    "padded_nvfp4_gemm": "the same, with its GEMM",
    "inverse_rope": "inverse RoPE + FP8, once compiled",
}
"""Short enough to stand over half the width in any font; others are cut."""


def draw_panel(svg: Svg, place: Box, shown: Shown) -> None:
    """Draw an experiment: a column per M, in it a point per case and series."""
    right = _RIGHT + (_CLAIM if shown.claim else 0)
    box = Box(
        place.x + _LEFT,
        place.y + HEAD,
        place.w - _LEFT - right,
        place.h - HEAD - _FOOT,
    )
    scale = Scale.around([p.ratio for p in shown.points] + list(shown.claim or ()), box)
    ms = sorted({point.m for point in shown.points})
    slot = box.w / len(ms)
    lefts = {m: box.x + number * slot for number, m in enumerate(ms)}
    _heading(svg, place, shown)
    for m, left in lefts.items():
        noise = 1 + shown.noise.get(m, 0.0)
        top, low = scale.y(noise), scale.y(1 / noise)
        svg.rect(left, top, slot, max(low - top, 1.0), fill=NOISE)
    _grid(svg, scale)
    for m, left in lefts.items():
        if left > box.x:
            svg.line(left, box.y, left, box.bottom, stroke=GRID, stroke_dasharray="2 3")
        _column(svg, scale, left, slot, [p for p in shown.points if p.m == m])
        _label(svg, left + slot / 2, box.bottom, f"{m}", is_turned=len(ms) > _MANY)
    svg.line(box.x, box.bottom, box.right, box.bottom, stroke=DIM)
    svg.text(box.x - 6, box.bottom + 16, "M", font_size=12, fill=DIM, text_anchor="end")
    if shown.claim:
        _claim(svg, scale, shown.claim)


def _heading(svg: Svg, place: Box, shown: Shown) -> None:
    number = f"#{shown.number}"
    svg.text(place.x, place.y + 14, number, font_size=14, font_weight=600, fill=DIM)
    title = _cut(_TITLES.get(shown.name, shown.title.partition(":")[0]), _TITLE_LETTERS)
    svg.text(place.x + NUMBER, place.y + 14, title, font_size=14, font_weight=600, fill=INK)
    says = _cut(f"report: {shown.figure}", _LETTERS)
    svg.text(place.x, place.y + 31, says, font_size=12, fill=DIM)
    x = place.x
    for series in SERIES:
        mean = shown.mean(series)
        if mean is None:
            continue
        text = f"{series} {mean:.2f}"
        svg.text(x, place.y + 48, text, font_size=12, font_weight=600, fill=COLOURS[series])
        x += 7.6 * len(text) + 12


def _grid(svg: Svg, scale: Scale) -> None:
    box = scale.box
    for tick in scale.ticks:
        y = scale.y(tick)
        is_one = tick == 1.0
        svg.line(box.x, y, box.right, y, stroke=INK if is_one else GRID)
        text = f"{tick:g}×"
        svg.text(box.x - 6, y + 4, text, font_size=12, fill=DIM, text_anchor="end")


def _column(svg: Svg, scale: Scale, left: float, slot: float, points: list[Point]) -> None:
    third = slot / (len(SERIES) + 1)
    for place, series in enumerate(SERIES, 1):
        mine = [p for p in points if p.series == series]
        if not mine:
            continue
        middle = left + place * third
        room = min(third * 0.8, 26.0)
        colour = COLOURS[series]
        radius = max(2.2, min(3.6, third / 3.2))
        for number, point in enumerate(mine):
            # points of one column are spread, else those of like shapes hide each other
            shift = 0.0 if len(mine) == 1 else (number / (len(mine) - 1) - 0.5) * room
            tip = f"{series} {point.ratio:.2f}\n{point.case}"
            look = {"fill": PAPER, "stroke": colour, "stroke_width": 1.2}
            if not point.is_control:
                look = {"fill": colour, "fill_opacity": 0.7}
            svg.circle(middle + shift, scale.y(point.ratio), radius, tip, **look)
        mean = geomean(p.ratio for p in mine if not p.is_control)
        if mean is not None and len(mine) > _FEW:
            y, half = scale.y(mean), max(room / 2, 3.0) + 2
            svg.line(middle - half, y, middle + half, y, stroke=INK, stroke_width=1.6)


def _label(svg: Svg, x: float, bottom: float, text: str, *, is_turned: bool) -> None:
    if is_turned:
        svg.text(x + 4, bottom + 12, text, turn=-45, font_size=11, fill=DIM, text_anchor="end")
    else:
        svg.text(x, bottom + 16, text, font_size=12, fill=DIM, text_anchor="middle")


def _claim(svg: Svg, scale: Scale, claim: tuple[float, float]) -> None:
    low, high = claim
    colour, x = COLOURS["before/seed"], scale.box.right + 8
    top, bottom = scale.y(high), scale.y(low)
    svg.line(x, top, x, bottom, stroke=colour, stroke_width=2)
    for y in (top, bottom):
        svg.line(x - 4, y, x + 4, y, stroke=colour, stroke_width=2)
    middle = scale.y(sqrt(low * high))
    diamond = [(x, middle - 5), (x + 5, middle), (x, middle + 5), (x - 5, middle)]
    tip = f"the report: before/seed {low:.2f} to {high:.2f}"
    svg.polygon(diamond, tip, fill=colour)
    svg.text(x + 8, middle + 4, f"{sqrt(low * high):.1f}×", font_size=12, fill=colour)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
