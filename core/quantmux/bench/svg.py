"""A small writer of SVG pictures: shapes and text, nothing that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Iterable

_FONT: Final = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


class Svg:
    """A picture of a fixed size, in pixels, origin above left."""

    def __init__(self, width: float, height: float, background: str) -> None:
        size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        font = f"font-family={quoteattr(_FONT)}"
        self._parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>']
        self.rect(0, 0, width, height, fill=background)

    def rect(self, x: float, y: float, w: float, h: float, **style: object) -> None:
        """Add a rectangle."""
        self._add("rect", {"x": x, "y": y, "width": w, "height": h, **style})

    def line(self, x1: float, y1: float, x2: float, y2: float, **style: object) -> None:
        """Add a line."""
        self._add("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **style})

    def circle(self, x: float, y: float, r: float, tip: str = "", **style: object) -> None:
        """Add a circle; ``tip`` is shown where the pointer rests."""
        self._add("circle", {"cx": x, "cy": y, "r": r, **style}, tip)

    def polygon(
        self, points: Iterable[tuple[float, float]], tip: str = "", **style: object
    ) -> None:
        """Add a closed shape."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polygon", {"points": text, **style}, tip)

    def polyline(self, points: Iterable[tuple[float, float]], **style: object) -> None:
        """Add a line through points."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polyline", {"points": text, "fill": "none", **style})

    def text(self, x: float, y: float, text: str, *, turn: float = 0, **style: object) -> None:
        """Add text at its baseline, turned by degrees around that point."""
        given = {"x": x, "y": y, **style}
        if turn:
            given["transform"] = f"rotate({turn:.1f} {x:.1f} {y:.1f})"
        self._parts.append(f"<text{_attributes(given)}>{escape(text)}</text>")

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])

    def _add(self, name: str, style: dict[str, object], tip: str = "") -> None:
        attributes = _attributes(style)
        if tip:
            self._parts.append(f"<{name}{attributes}><title>{escape(tip)}</title></{name}>")
        else:
            self._parts.append(f"<{name}{attributes}/>")


def _attributes(style: dict[str, object]) -> str:
    return "".join(f" {name.replace('_', '-')}={_quoted(value)}" for name, value in style.items())


def _quoted(value: object) -> str:
    if isinstance(value, float):
        return quoteattr(f"{value:.2f}".rstrip("0").rstrip("."))
    return quoteattr(str(value))
