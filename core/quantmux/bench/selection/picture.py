"""The picture of a grid: how far what selection takes is behind the best, cell by cell."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from quantmux.bench.roofline import check_plot
from quantmux.bench.selection.judge import NEAR
from quantmux.bench.svg import Svg
from quantmux.errors import ConfigError
from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantmux.bench.selection.cells import Cell
    from quantmux.bench.selection.judge import Quality

_CELL: Final = (50, 22)
_LEFT, _TOP, _PANEL, _FOOT = 118, 92, 66, 62
_INK, _DIM, _PAPER = "#1c2128", "#5b6470", "#ffffff"
_NOTHING: Final = "#f0f1f3"
_STEPS: Final = (
    (0.01, "#eef6f0", "≤ 1 %"),
    (NEAR, "#d3ead9", "≤ 3 %"),
    (0.06, "#fde8c8", "≤ 6 %"),
    (0.12, "#f9bd84", "≤ 12 %"),
    (0.25, "#ee8a62", "≤ 25 %"),
    (float("inf"), "#c9493f", "more"),
)
"""Up to which loss, its colour, and its name: greens are what selection aims at."""


def write_picture(qualities: Sequence[Quality], title: str, subtitle: str, file: Path) -> None:
    """Write the picture as .svg, or as .png where cairosvg is installed.

    Args:
        qualities: One per scheme; each is a panel.
        title: First line.
        subtitle: Second line: when, with what.
        file: Where.

    Raises:
        ConfigError: There is nothing to draw, the ending is another, cairosvg is not here, or the
            file cannot be written.
    """
    check_plot(file)
    text = picture(qualities, title, subtitle)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".svg":
            write_whole(file, text)
        else:
            svg2png = import_module("cairosvg").svg2png
            file.write_bytes(svg2png(bytestring=text.encode(), scale=1.5))
    except OSError as error:
        raise ConfigError(
            f"cannot write {file.name}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None


def picture(qualities: Sequence[Quality], title: str, subtitle: str) -> str:
    """Give the picture: per scheme a map, N×K downwards and M to the right.

    Raises:
        ConfigError: There is nothing to draw.
    """
    panels = [one for one in qualities if one.cells and len({c.scheme for c in one.cells}) == 1]
    if not panels:
        raise ConfigError("there is nothing to plot: no cell was timed", code="plot")
    ms = sorted({cell.m for one in panels for cell in one.cells})
    heights = [_PANEL + _CELL[1] * len(_shapes(one)) + _FOOT for one in panels]
    width = max(_LEFT + _CELL[0] * len(ms) + 28, 860)
    svg = Svg(width, _TOP + sum(heights) + 8, _PAPER)
    svg.text(24, 34, title, font_size=19, font_weight=600, fill=_INK)
    svg.text(24, 55, subtitle, font_size=12.5, fill=_DIM)
    _legend(svg, 24, 70)
    top = float(_TOP)
    for one, height in zip(panels, heights, strict=True):
        _panel(svg, one, ms, top)
        top += height
    return str(svg)


def _shapes(quality: Quality) -> list[tuple[int, int]]:
    shapes = {(cell.n, cell.k) for cell in quality.cells}
    return sorted(shapes, key=lambda s: (s[0] * s[1], s))


def _legend(svg: Svg, x: float, y: float) -> None:
    svg.text(x, y + 12, "behind the best of the run:", font_size=12, fill=_DIM)
    x += 168
    for _, colour, name in _STEPS:
        svg.rect(x, y, 22, 15, fill=colour, stroke="#c9ced6", stroke_width=0.6)
        svg.text(x + 27, y + 12, name, font_size=12, fill=_INK)
        x += 82
    svg.text(x, y + 12, "( ) within noise", font_size=12, fill=_INK)


def _panel(svg: Svg, quality: Quality, ms: Sequence[int], top: float) -> None:
    wide, high = _CELL
    svg.text(24, top + 26, quality.name, font_size=15, font_weight=600, fill=_INK)
    svg.text(_LEFT - 10, top + 54, "N×K", font_size=12, fill=_DIM, text_anchor="end")
    for i, m in enumerate(ms):
        x = _LEFT + wide * (i + 0.5)
        label = f"M={m}" if i == 0 else str(m)
        svg.text(x, top + 54, label, font_size=12, fill=_DIM, text_anchor="middle")
    known = {(cell.n, cell.k, cell.m): cell for cell in quality.cells}
    for row, (n, k) in enumerate(_shapes(quality)):
        y = top + _PANEL + high * row
        svg.text(_LEFT - 10, y + 15, f"{n}×{k}", font_size=12, fill=_INK, text_anchor="end")
        for i, m in enumerate(ms):
            _cell(svg, known.get((n, k, m)), _LEFT + wide * i, y)
    y = top + _PANEL + high * len(_shapes(quality)) + 20
    for i, line in enumerate(_lines(quality)):
        svg.text(_LEFT, y + 18 * i, line, font_size=12.5, fill=_DIM if i else _INK)


def _cell(svg: Svg, cell: Cell | None, x: float, y: float) -> None:
    wide, high = _CELL
    loss = None if cell is None else cell.loss
    colour = _NOTHING
    if loss is not None:
        colour = next(colour for limit, colour, _ in _STEPS if loss <= limit)
    svg.rect(x, y, wide, high, fill=colour, stroke=_PAPER, stroke_width=1.2)
    if cell is None or loss is None:
        text = "" if cell is None else "?"
    else:
        text = "·" if loss < 0.0005 else f"{loss * 100:.1f}" if loss < 0.1 else f"{loss * 100:.0f}"
        text = f"({text})" if text != "·" and not cell.is_loss else text
    dark = loss is not None and loss > _STEPS[-2][0]
    svg.text(
        x + wide / 2,
        y + 15,
        text,
        font_size=11.5,
        fill=_PAPER if dark else _INK,
        text_anchor="middle",
    )


def _lines(quality: Quality) -> list[str]:
    if quality.ratio is None or quality.near is None:
        return ["selection has no time here"]
    behind, near = (quality.ratio - 1) * 100, quality.near * 100
    count = len(quality.served)
    text = f"{count} cells, {behind:.1f} % behind in the geometric mean; {near:.0f} % of them ≤ 3 %"
    against = [f"{one.backend} {one.ratio:.2f}×" for one in quality.fixed if one.ratio]
    if not against:
        return [text]
    return [text, "one backend everywhere takes, over what selection takes: " + ", ".join(against)]
