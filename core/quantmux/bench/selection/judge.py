"""How good selection was: ratios to the best of the run and to every one backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from quantmux.bench.selection.cells import Cell

NEAR: Final = 0.03
"""Selection aims at this much behind the best, at most."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """One backend taken everywhere, against selection.

    Attributes:
        backend: Its name.
        ratio: Geometric mean of its times over selection's, over the cells that both serve: above
            1 selection is faster. None where there is no such cell.
        cells: How many those are.
        unserved: Cells that selection serves and it does not.
        with_others: The same ratio with anybody's quantizer before its consumers.
        with_others_cells: How many cells that is over.
    """

    backend: str
    ratio: float | None
    cells: int
    unserved: int
    with_others: float | None
    with_others_cells: int

    def to_dict(self) -> dict[str, Any]:
        """Give the comparison as JSON-ready data."""
        return {
            "backend": self.backend,
            "ratio": _round(self.ratio),
            "cells": self.cells,
            "unserved": self.unserved,
            "with_others": _round(self.with_others),
            "with_others_cells": self.with_others_cells,
        }


@dataclass(frozen=True, slots=True)
class Quality:
    """Selection over some cells.

    Attributes:
        name: Which cells.
        cells: All of them.
        served: Those where what selection takes has a time.
        ratio: Geometric mean of its times over the best ones: 1 is never beaten.
        on_layout: The same over the best on the weight layout that it has chosen.
        near: Share of the served within `NEAR` of the best.
        near_or_noise: Share within `NEAR`, or apart by no more than noise.
        losses: Cells where another is faster by more than noise.
        aa_noise: Median of A/A.
        aa_worst: Largest A/A.
        fixed: One backend everywhere, slowest last.
    """

    name: str
    cells: tuple[Cell, ...]
    served: tuple[Cell, ...]
    ratio: float | None
    on_layout: float | None
    near: float | None
    near_or_noise: float | None
    losses: tuple[Cell, ...]
    aa_noise: float | None
    aa_worst: float | None
    fixed: tuple[Fixed, ...]

    def worst(self, count: int = 10) -> tuple[Cell, ...]:
        """Give the cells that lose most, beyond noise."""
        return tuple(sorted(self.losses, key=lambda cell: -(cell.loss or 0.0))[:count])

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as JSON-ready data, without the cells."""
        return {
            "name": self.name,
            "cells": len(self.cells),
            "served": len(self.served),
            "ratio": _round(self.ratio),
            "on_layout": _round(self.on_layout),
            "near": _round(self.near),
            "near_or_noise": _round(self.near_or_noise),
            "losses": len(self.losses),
            "aa_noise": _round(self.aa_noise),
            "aa_worst": _round(self.aa_worst),
            "fixed": [one.to_dict() for one in self.fixed],
        }


def judge(cells: Sequence[Cell], name: str = "all") -> Quality:
    """Give the figures of some cells."""
    served = tuple(cell for cell in cells if cell.pick is not None)
    noises = [cell.aa_noise for cell in cells if cell.aa_noise is not None]
    laid = [cell.pick.us / cell.on_layout.us for cell in served if cell.pick and cell.on_layout]
    backends = sorted({name for cell in cells for name in cell.consumers})
    fixed = (_fixed(backend, served) for backend in backends)
    return Quality(
        name=name,
        cells=tuple(cells),
        served=served,
        ratio=geomean([1.0 + (cell.loss or 0.0) for cell in served]),
        on_layout=geomean(laid),
        near=_share([cell.within(NEAR) for cell in served]),
        near_or_noise=_share([cell.within(NEAR) or not cell.is_loss for cell in served]),
        losses=tuple(cell for cell in served if cell.is_loss),
        aa_noise=median(noises) if noises else None,
        aa_worst=max(noises, default=None),
        fixed=tuple(sorted(fixed, key=lambda one: (one.ratio or math.inf, one.backend))),
    )


def judge_by_scheme(cells: Sequence[Cell]) -> tuple[Quality, ...]:
    """Give the figures per scheme, and of all where there are several."""
    schemes = list(dict.fromkeys(cell.scheme for cell in cells))
    found = [judge([c for c in cells if c.scheme == name], name) for name in schemes]
    return (*found, judge(cells)) if len(schemes) > 1 else tuple(found)


def geomean(values: Sequence[float]) -> float | None:
    """Give the geometric mean, None of nothing."""
    if not values:
        return None
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _fixed(backend: str, served: Sequence[Cell]) -> Fixed:
    own = [
        cell.own[backend].us / cell.pick.us for cell in served if cell.pick and backend in cell.own
    ]
    others = [
        cell.consumers[backend].us / cell.pick.us
        for cell in served
        if cell.pick and backend in cell.consumers
    ]
    return Fixed(
        backend=backend,
        ratio=geomean(own),
        cells=len(own),
        unserved=len(served) - len(own),
        with_others=geomean(others),
        with_others_cells=len(others),
    )


def _share(answers: Sequence[bool]) -> float | None:
    return sum(answers) / len(answers) if answers else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
