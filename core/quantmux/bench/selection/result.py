"""What a grid showed: the run, its cells, and how selection fared by several ways to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantmux.bench.selection.cells import cells_of
from quantmux.bench.selection.judge import judge, judge_by_scheme
from quantmux.bench.selection.kept import without_shape
from quantmux.bench.selection.selectors import selector
from quantmux.dispatch.tuning import TuningTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.selection.cells import Cell
    from quantmux.bench.selection.judge import Quality
    from quantmux.bench.selection.kept import KeptRun
    from quantmux.capability.device import DeviceProfile
    from quantmux.dispatch.tuning import TuningRow
    from quantmux.runtime.context import Context

AS_IT_IS: Final = "as it is"
ORDER_ONLY: Final = "order only"
HELD_OUT: Final = "held out"
TWO_COPIES: Final = "two copies"
"""Ways to choose: by all measured times; by none; by those of all other shapes; by all, with two
prepared forms of the weights."""


@dataclass(frozen=True, slots=True)
class GridResult:
    """A run judged.

    Attributes:
        run: What was timed.
        cells: What selection takes there as it is, and what was best.
        qualities: Figures per scheme, then of all.
        other_ways: The same of all cells for other ways to choose, by name.
        rows: How many measured times selection knew.
        source: Where these came from.
    """

    run: KeptRun
    cells: tuple[Cell, ...]
    qualities: tuple[Quality, ...]
    other_ways: dict[str, tuple[Quality, ...]]
    rows: int
    source: str

    @property
    def means_nothing(self) -> bool:
        """Tell whether the run was a quick look, as it always is without a GPU."""
        return bool(self.run.report.protocol.get("quick"))

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON-ready data, its rows under ``rows``."""
        return {
            **self.run.to_dict(),
            "means_nothing": self.means_nothing,
            "times_known": self.rows,
            "times_from": self.source,
            "quality": {AS_IT_IS: [one.to_dict() for one in self.qualities]}
            | {name: [q.to_dict() for q in found] for name, found in self.other_ways.items()},
            "cells": [cell.to_dict() for cell in self.cells],
        }


def judged(
    run: KeptRun,
    context: Context,
    device: DeviceProfile,
    *,
    over: Sequence[TuningRow] = (),
    source: str = "shipped and recorded",
) -> GridResult:
    """Judge selection by a run; no GPU is needed.

    Args:
        run: What was timed.
        context: Plugins and policy.
        device: Where it was timed; a named profile does.
        over: Measured times that lie over what is shipped and recorded, as if recorded.
        source: Where these times come from.
    """
    specs = {spec.id: spec for spec in context.registry.kernels}
    rows, kernels = run.report.rows, run.kernels
    times = [*context.inventory(device).tuning.rows(), *over]
    table = TuningTable(times)
    now = selector(context, device, times=table, kernels=kernels)
    cells = cells_of(rows, now, specs)
    without = selector(context, device, times=TuningTable(), kernels=kernels)
    ways = {ORDER_ONLY: judge_by_scheme(cells_of(rows, without, specs))}
    held: list[Cell] = []
    for n, k in dict.fromkeys((cell.n, cell.k) for cell in cells):
        others = TuningTable(without_shape(times, n, k))
        blind = selector(context, device, times=others, kernels=kernels)
        held += cells_of([r for r in rows if (r.n, r.k) == (n, k)], blind, specs)
    ways[HELD_OUT] = judge_by_scheme(held)
    twice = selector(context, device, times=table, kernels=kernels, copies=2)
    ways[TWO_COPIES] = judge_by_scheme(cells_of(rows, twice, specs))
    return GridResult(run, cells, judge_by_scheme(cells), ways, len(table), source)


def of_model(result: GridResult, shapes: Sequence[tuple[int, int]], name: str) -> Quality:
    """Give the figures of the cells of one model's linears."""
    return judge([cell for cell in result.cells if (cell.n, cell.k) in set(shapes)], name)
