"""How the picture of the seeds looks: sizes, colours, and a scale of ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 900
"""The picture is drawn at the width at which a page shows it, so that text keeps its size."""

NUMBER: Final = 68
"""Room for the number of a pull request before a title."""

INK: Final = "#1c2128"
DIM: Final = "#5b6470"
GRID: Final = "#e4e7eb"
PAPER: Final = "#ffffff"
NOISE: Final = "#d5dae1"

COLOURS: Final = {
    "before/ours": "#1f6feb",
    "seed/ours": "#e8590c",
    "before/seed": "#868e96",
}
"""Series → colour. The report's claim, which is of before/seed, has that one's colour."""

TICKS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True)
class Box:
    """A place in the picture, pixels.

    Attributes:
        x: Left.
        y: Top.
        w: Width.
        h: Height.
    """

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.w

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y + self.h


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic scale of ratios, upwards in a box.

    Attributes:
        low: Ratio at the lower edge.
        high: Ratio at the upper edge.
        box: Where.
    """

    low: float
    high: float
    box: Box

    @classmethod
    def around(cls, ratios: list[float], box: Box) -> Scale:
        """Give the scale that shows all of these, and 1, with some room."""
        low, high = min([*ratios, 0.87]), max([*ratios, 1.35])
        return cls(low / 1.07, high * 1.12, box)

    def y(self, ratio: float) -> float:
        """Give the height of a ratio, clipped to the box."""
        share = math.log(max(ratio, 1e-9) / self.low) / math.log(self.high / self.low)
        return self.box.bottom - min(1.0, max(0.0, share)) * self.box.h

    @property
    def ticks(self) -> list[float]:
        """Give the ratios that are labelled."""
        steps = TICKS if self.high / self.low > 4 else (*TICKS, 0.9, 1.1, 1.25, 1.5, 3.0)
        return sorted(tick for tick in steps if self.low <= tick <= self.high)
