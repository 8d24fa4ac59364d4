"""The picture of the seeds: what before and the seed take, ours being 1, experiment by experiment.

    python -m quantmux.bench.seeds.plot RESULT.json PICTURE.svg

draws a result file again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantmux.bench import roofline
from quantmux.bench.roofline import write_picture
from quantmux.bench.seeds.plot_panel import draw_panel
from quantmux.bench.seeds.plot_points import SERIES, Data, shown, stalls
from quantmux.bench.seeds.plot_stall import draw_stalls
from quantmux.bench.seeds.plot_style import COLOURS, DIM, INK, NOISE, PAPER, WIDTH, Box
from quantmux.bench.svg import Svg
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.bench.seeds.report import SeedReport

_HEAD: Final = 96
_MARGIN: Final = 16
_GAP: Final = 20
_PANEL: Final = 268
_FOOT: Final = 10
_COUNTS: Final = {1: "A pull request", 5: "Five pull requests"}


def check_plot(file: Path) -> None:
    """Tell whether a picture of this name can be made, before minutes are spent on its rows.

    Raises:
        ConfigError: The ending is neither .svg nor .png, or cairosvg is not here.
    """
    roofline.check_plot(file, "seeds.svg")


def write_plot(report: SeedReport, file: Path) -> None:
    """Write the picture of a run as .svg, or as .png where cairosvg is installed.

    Raises:
        ConfigError: Nothing was timed, the ending is another, cairosvg is not here, or the file
            cannot be written.
    """
    write_picture(seeds_svg(report.to_dict()), file)


def seeds_svg(data: Data) -> str:
    """Give the picture of a report's data.

    A panel per experiment: ratios of times by M, a point per case, logarithmic; a line for their
    geometric mean, a band as wide as the largest A/A of that M, a mark for the report's own ratio.
    Last come the stalls of fresh processes.

    Raises:
        ConfigError: Nothing was timed.
    """
    panels, waits = shown(data), stalls(data)
    if not panels:
        raise ConfigError("there is nothing to plot: no variant was timed", code="plot")
    rows = -(-(len(panels) + bool(waits)) // 2)
    height = _HEAD + rows * (_PANEL + _GAP) + _FOOT
    svg = Svg(WIDTH, height, PAPER)
    _heading(svg, data, len({panel.number for panel in panels}))
    wide = (WIDTH - 2 * _MARGIN - _GAP) / 2
    for number, panel in enumerate(panels):
        draw_panel(svg, _place(number, wide), panel)
    if waits:
        place = _place(len(panels), wide)
        if not len(panels) % 2:
            place = Box(place.x, place.y, WIDTH - 2 * _MARGIN, place.h)
        draw_stalls(svg, place, waits)
    return str(svg)


def _place(number: int, wide: float) -> Box:
    down, right = divmod(number, 2)
    return Box(_MARGIN + right * (wide + _GAP), _HEAD + down * (_PANEL + _GAP), wide, _PANEL)


def _heading(svg: Svg, data: Data, count: int) -> None:
    title = f"{_COUNTS.get(count, 'Pull requests')} against quantmux on {data['title']}"
    svg.text(_MARGIN, 28, title, font_size=19, font_weight=600, fill=INK)
    known = data["versions"]
    parts = [data["date"], *(f"{n} {known[n]}" for n in ("torch", "triton") if n in known)]
    if data["size"] == "tiny":
        parts.append("a trial on a host: THE FIGURES MEAN NOTHING")
    line = "before/ours 2×: before takes twice as long as ours. By rows M; " + ", ".join(parts)
    svg.text(_MARGIN, 48, line, font_size=13, fill=DIM)
    x, y = float(_MARGIN), 72
    for series in SERIES:
        svg.circle(x + 5, y - 4, 4.5, fill=COLOURS[series], fill_opacity=0.7)
        svg.text(x + 15, y, series, font_size=12, fill=INK)
        x += 15 + 6.6 * len(series) + 18
    svg.circle(x + 5, y - 4, 4, fill=PAPER, stroke=DIM, stroke_width=1.2)
    svg.text(x + 15, y, "control: nothing to gain", font_size=12, fill=INK)
    x += 165
    svg.line(x, y - 4, x + 16, y - 4, stroke=INK, stroke_width=1.6)
    svg.text(x + 22, y, "mean", font_size=12, fill=INK)
    x += 66
    svg.rect(x, y - 10, 18, 12, fill=NOISE)
    svg.text(x + 24, y, "largest A/A", font_size=12, fill=INK)
    x += 106
    diamond = [(x + 5, y - 9), (x + 10, y - 4), (x + 5, y + 1), (x, y - 4)]
    svg.polygon(diamond, fill=COLOURS["before/seed"])
    svg.text(x + 16, y, "before/seed by the report", font_size=12, fill=INK)


def main(result: str, picture: str) -> None:
    """Draw a result file."""
    data = json.loads(Path(result).read_text(encoding="utf-8"))
    write_picture(seeds_svg(data), Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
