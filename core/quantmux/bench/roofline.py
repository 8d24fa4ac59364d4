"""The roofline picture of a report: how near every kernel comes to what this device can do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module, util
from typing import TYPE_CHECKING, Final

from quantmux.bench.svg import Svg
from quantmux.errors import ConfigError
from quantmux.registry.row_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantmux.bench.rows import Report, Row

_WIDTH: Final = 1080
_HEIGHT: Final = 680
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 300, 78, 62
_COLOURS: Final = (
    "#1f6feb", "#e8590c", "#2f9e44", "#9c36b5", "#495057", "#d6336c", "#0c8599", "#e0a100",
    "#5f3dc4", "#7c4a2d",
)  # fmt: skip
_INK, _DIM, _GRID, _PAPER = "#1c2128", "#5b6470", "#e4e7eb", "#ffffff"
_MARGIN: Final = 1.35
_CEILINGS: Final = {
    "fp8_tflops": "fp8",
    "bf16_tflops": "bf16",
    "int8_tflops": "int8",
    "fp32_tflops": "fp32",
}


@dataclass(frozen=True, slots=True)
class _Axes:
    """Logarithmic axes: operations per byte to the right, TFLOP/s (or GB/s) upwards."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Give the place of a point in pixels."""
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        right = _share(x, self.x) * width
        up = _share(y, self.y) * height
        return _LEFT + right, _HEIGHT - _BOTTOM - up


def roofline_svg(report: Report) -> str:
    """Give the picture: a point per kernel and case, under the ceilings of the same run.

    Linears stand by operations per byte and TFLOP/s. A report without any shows µs against bytes.

    Raises:
        ConfigError: Nothing was timed.
    """
    rows = [r for r in report.rows if r.us and r.kind in ("kernel", "peer") and r.gb_s]
    if not rows:
        raise ConfigError("there is nothing to plot: no row was timed", code="plot")
    products = [row for row in rows if row.tflops]
    return _products(report, products) if products else _movers(report, rows)


def check_plot(file: Path, example: str = "roofline.svg") -> None:
    """Tell whether a picture of this name can be made, before minutes are spent on its rows.

    Args:
        file: Where it shall go.
        example: A name that would do.

    Raises:
        ConfigError: The ending is neither .svg nor .png, or cairosvg is not here.
    """
    if file.suffix not in (".svg", ".png"):
        raise ConfigError(
            f"--plot writes .svg and .png, found {file.name}",
            hint=f"name it {example}",
            code="usage",
        )
    if file.suffix == ".png" and util.find_spec("cairosvg") is None:
        raise ConfigError(
            "a PNG needs cairosvg, which is not installed",
            hint="write an .svg, or: pip install cairosvg",
            code="plot",
        )


def write_plot(report: Report, file: Path) -> None:
    """Write the picture as .svg, or as .png where cairosvg is installed.

    Raises:
        ConfigError: Nothing was timed, the ending is another, cairosvg is not here, or the file
            cannot be written.
    """
    write_picture(roofline_svg(report), file)


def write_picture(text: str, file: Path) -> None:
    """Write an SVG's text as .svg, or as .png where cairosvg is installed.

    Raises:
        ConfigError: The ending is another, cairosvg is not here, or the file cannot be written.
    """
    check_plot(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".svg":
            write_whole(file, text)
        else:
            file.write_bytes(_png(text))
    except OSError as error:
        raise ConfigError(
            f"cannot write {file}", facts=[error.strerror or str(error)], code="unwritable"
        ) from None


def _png(text: str) -> bytes:
    made: bytes = import_module("cairosvg").svg2png(bytestring=text.encode(), scale=1.5)
    return made


def _products(report: Report, rows: Sequence[Row]) -> str:
    points = [(_intensity(row), row.tflops or 0.0, row) for row in rows]
    copy = report.ceilings.get("copy_gb_s", 0.0)
    flats = {
        label: report.ceilings[name] for name, label in _CEILINGS.items() if name in report.ceilings
    }
    top = max([*flats.values(), *(y for _, y, _ in points)])
    axes = _Axes(
        _around([x for x, _, _ in points] + [v * 1e3 / copy for v in flats.values() if copy]),
        _around([*(y for _, y, _ in points), top]),
    )
    svg = _frame(report, axes, "operations per byte moved", "TFLOP/s")
    for label, flat in sorted(flats.items(), key=lambda item: -item[1]):
        knee = max(flat * 1e3 / copy, axes.x[0]) if copy else axes.x[0]
        _ceiling(svg, axes, (knee, flat), (axes.x[1], flat), f"{label} {flat:,.0f} TFLOP/s")
    if copy:
        end = min(max(flats.values(), default=top) * 1e3 / copy, axes.x[1])
        start = max(axes.x[0], axes.y[0] * 1e3 / copy)
        ends = (start, start * copy * 1e-3), (end, end * copy * 1e-3)
        _ceiling(svg, axes, *ends, f"copy {copy:,.0f} GB/s", slope=True)
    _points(svg, axes, points)
    return str(svg)


def _movers(report: Report, rows: Sequence[Row]) -> str:
    points = [((row.gb_s or 0.0) * (row.us or 0.0) * 1e-3, row.gb_s or 0.0, row) for row in rows]
    copy = report.ceilings.get("copy_gb_s", 0.0)
    axes = _Axes(
        _around([x for x, _, _ in points]), _around([*(y for _, y, _ in points), copy or 1.0])
    )
    svg = _frame(report, axes, "MB that must be moved", "GB/s")
    if copy:
        _ceiling(svg, axes, (axes.x[0], copy), (axes.x[1], copy), f"copy {copy:,.0f} GB/s")
    _points(svg, axes, points)
    return str(svg)


def _frame(report: Report, axes: _Axes, x_title: str, y_title: str) -> Svg:
    svg = Svg(_WIDTH, _HEIGHT, _PAPER)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    ops = ", ".join(dict.fromkeys(r.op for r in report.rows if r.op != "empty"))
    svg.text(_LEFT, 32, f"{ops} on {report.title}", font_size=20, font_weight=600, fill=_INK)
    torch = report.versions.get("torch", "")
    schemes = ", ".join(dict.fromkeys(r.scheme for r in report.rows if r.scheme))
    line = f"{schemes}; {report.date}, torch {torch}; dashed: ceilings of the same run"
    svg.text(_LEFT, 54, line, font_size=13, fill=_DIM)
    for value, label in _ticks(axes.x):
        x, _ = axes.at(value, axes.y[0])
        svg.line(x, _TOP, x, bottom, stroke=_GRID)
        if label:
            svg.text(x, bottom + 20, label, font_size=12, fill=_DIM, text_anchor="middle")
    for value, label in _ticks(axes.y):
        _, y = axes.at(axes.x[0], value)
        svg.line(_LEFT, y, right, y, stroke=_GRID)
        if label:
            svg.text(_LEFT - 8, y + 4, label, font_size=12, fill=_DIM, text_anchor="end")
    svg.line(_LEFT, bottom, right, bottom, stroke=_DIM)
    svg.line(_LEFT, _TOP, _LEFT, bottom, stroke=_DIM)
    middle = (_LEFT + right) / 2
    svg.text(middle, bottom + 46, x_title, font_size=13, fill=_INK, text_anchor="middle")
    up = (_TOP + bottom) / 2
    svg.text(24, up, y_title, turn=-90, font_size=13, fill=_INK, text_anchor="middle")
    return svg


def _ceiling(
    svg: Svg,
    axes: _Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    label: str,
    *,
    slope: bool = False,
) -> None:
    a, b = axes.at(*start), axes.at(*end)
    svg.line(*a, *b, stroke=_INK, stroke_width=1.6, stroke_dasharray="7 4")
    if slope:
        turn = math.degrees(math.atan2(b[1] - a[1], b[0] - a[0]))
        x, y = a[0] + 0.5 * (b[0] - a[0]), a[1] + 0.5 * (b[1] - a[1])
        svg.text(x - 6, y - 8, label, turn=turn, font_size=12, fill=_INK, text_anchor="middle")
    else:
        # left of the knee nothing can stand but this: it is above the slope
        has_room = a[0] - 8 > _LEFT + 110
        x, y = (a[0] - 8, a[1] + 4) if has_room else (a[0] + 6, a[1] - 7)
        anchor = "end" if has_room else "start"
        svg.text(x, y, label, font_size=12, fill=_INK, text_anchor=anchor)


def _points(svg: Svg, axes: _Axes, points: Sequence[tuple[float, float, Row]]) -> None:
    looks = _looks([row for *_, row in points])
    # peers first, so that no kernel is hidden by one
    for x, y, row in sorted(points, key=lambda point: point[2].kind != "peer"):
        _mark(svg, *axes.at(x, y), *looks[_name(row)], _tip(row))
    left, y = _WIDTH - _RIGHT + 26, float(_TOP + 6)
    groups = {"pipeline": "pipelines", "gemm": "their consumers alone", "peer": "peers"}
    for shape, title in groups.items():
        mine = [name for name, look in looks.items() if look[0] == shape]
        if not mine:
            continue
        svg.text(left - 8, y, title, font_size=12, font_weight=600, fill=_INK)
        y += 20
        for name in mine:
            _mark(svg, left, y - 4, *looks[name], "")
            for i, line in enumerate(_lines(name)):
                svg.text(left + 14, y + 15 * i, line, font_size=12, fill=_INK)
            y += 15 * len(_lines(name)) + 5
        y += 10


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Give shape and colour by name: a consumer has one colour, alone and in its pipelines."""
    colours: dict[str, str] = {}
    looks: dict[str, tuple[str, str]] = {}
    for row in rows:
        own = row.pipeline[-1] if row.kind == "kernel" and row.pipeline else _name(row)
        colour = colours.setdefault(own, _COLOURS[len(colours) % len(_COLOURS)])
        looks[_name(row)] = ("peer" if row.kind == "peer" else row.part, colour)
    return looks


def _mark(svg: Svg, x: float, y: float, shape: str, colour: str, tip: str) -> None:
    if shape == "peer":
        r = 4.4
        diamond = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
        svg.polygon(diamond, tip, fill="none", stroke=colour, stroke_width=1.5)
    elif shape == "gemm":
        corners = [(x, y - 4.8), (x + 4.4, y + 3.4), (x - 4.4, y + 3.4)]
        svg.polygon(corners, tip, fill=colour, fill_opacity=0.75, stroke=_PAPER, stroke_width=0.7)
    else:
        svg.circle(x, y, 3.8, tip, fill=colour, fill_opacity=0.75, stroke=_PAPER, stroke_width=0.7)


def _name(row: Row) -> str:
    alone = " alone" if row.part == "gemm" and row.kind == "kernel" else ""
    return row.kernel + alone + (f" [{row.env}]" if row.env else "")


def _lines(name: str) -> list[str]:
    head, arrow, tail = name.removesuffix(" alone").rpartition(" -> ")
    return [head + " →", tail] if arrow else [tail]


def _tip(row: Row) -> str:
    share = f", {row.pct_of_ceiling:.0f} % of ceiling" if row.pct_of_ceiling else ""
    return f"{_name(row)}\n{row.case}\n{row.us:.2f} µs{share}"


def _intensity(row: Row) -> float:
    return (row.tflops or 0.0) * 1e3 / (row.gb_s or 1.0)


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = math.log(ends[0]), math.log(ends[1])
    return (math.log(max(value, 1e-12)) - low) / (high - low)


def _around(values: Sequence[float]) -> tuple[float, float]:
    positive = [value for value in values if value > 0]
    return min(positive) / _MARGIN, max(positive) * _MARGIN


def _ticks(ends: tuple[float, float]) -> list[tuple[float, str]]:
    """Give 1, 2 and 5 of every decade within the ends; all are labelled unless there are many."""
    low, high = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1]))
    steps = (1, 2, 5) if high - low <= 4 else (1,)
    values = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return [(v, f"{v:,g}" if v < 1000 else f"{v:,.0f}") for v in values if ends[0] <= v <= ends[1]]
