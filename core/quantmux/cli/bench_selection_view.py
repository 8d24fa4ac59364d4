"""The tables of a grid: how selection fared, what one backend alone would cost, the worst cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from quantmux.bench.selection.judge import NEAR, judge
from quantmux.bench.selection.result import HELD_OUT, ORDER_ONLY, TWO_COPIES
from quantmux.bench.shapes import MODELS
from quantmux.cli._render import heading, show_table, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from quantmux.bench.selection.cells import Best, Cell
    from quantmux.bench.selection.judge import Quality
    from quantmux.bench.selection.result import GridResult

NO_NUMBERS: Final = "a quick look at the plumbing: these figures mean nothing"
_WORST: Final = 8
_WAYS: Final = {
    ORDER_ONLY: "none",
    HELD_OUT: "other shapes'",
    TWO_COPIES: "all, two weight copies",
}
_MODELS: Final = ("qwen3-8b", "dsv3", "llama3-8b")


def show_grid(result: GridResult, console: Console) -> None:
    """Print the tables of a run."""
    report = result.run.report
    console.print(Text(f"{report.title}, {report.date}", style="bold"))
    if report.protocol.get("quick"):
        console.print(Text(NO_NUMBERS, style="bold yellow"))
    console.print(Text(_head(result), style="dim"), soft_wrap=True)
    console.print(heading("what selection takes, over the best of the run"))
    show_table(console, _quality_table(result))
    console.print(heading("one backend taken everywhere, over what selection takes"))
    show_table(console, _fixed_table(result.qualities))
    worst = judge(result.cells).worst(_WORST)
    if worst:
        console.print(heading("where another is faster by more than noise, the worst first"))
        show_table(console, _worst_table(worst))
    problems = dict.fromkeys(cell.problem for cell in result.cells if cell.problem)
    for problem in problems:
        console.print(Text(problem, style="yellow"), soft_wrap=True)
    left_out = report.protocol.get("left_out") or ()
    if left_out:
        text = f"{len(left_out)} cells were left out for lack of time, first {left_out[0]}"
        console.print(Text(text, style="yellow"), soft_wrap=True)


def _head(result: GridResult) -> str:
    protocol = result.run.report.protocol
    parts = [
        f"{len(result.cells)} cells",
        f"selection knows {result.rows} measured times ({result.source})",
    ]
    if "seconds" in protocol:
        parts.append(f"{protocol['seconds']} s")
    overall = judge(result.cells)
    if overall.aa_noise is not None and overall.aa_worst is not None:
        worst = f"{overall.aa_worst * 100:.1f} % at most"
        parts.append(f"A/A {overall.aa_noise * 100:.1f} % in the median, {worst}")
    return "; ".join(parts)


def _quality_table(result: GridResult) -> Table:
    made = table(
        "cells of",
        "times known",
        *((name, "right") for name in ("cells", "mean", "on layout", f"≤ {NEAR * 100:.0f} %")),
        *((name, "right") for name in ("or noise", "losses", "worst")),
    )
    for quality in result.qualities:
        made.add_row(quality.name, "as it is", *_figures(quality))
    for name in _MODELS:
        for label, ms in (("M ≤ 64", range(1, 65)), ("M > 64", range(65, 1 << 30))):
            cells = [c for c in result.cells if (c.n, c.k) in MODELS[name] and c.m in ms]
            if cells:
                made.add_row(f"{name}, {label}", "as it is", *_figures(judge(cells)))
    for way, found in result.other_ways.items():
        for quality in found:
            made.add_row(quality.name, _WAYS.get(way, way), *_figures(quality))
    return made


def _figures(quality: Quality) -> list[str]:
    worst = max((cell.loss or 0.0 for cell in quality.served), default=None)
    return [
        f"{len(quality.served)}/{len(quality.cells)}",
        _ratio(quality.ratio),
        _ratio(quality.on_layout),
        _share(quality.near),
        _share(quality.near_or_noise),
        str(len(quality.losses)),
        "-" if worst is None else f"{worst * 100:.1f} %",
    ]


def _fixed_table(qualities: Sequence[Quality]) -> Table:
    made = table(
        "cells of",
        "backend",
        ("own quantizer, or torch's", "right"),
        ("cells", "right"),
        ("cannot serve", "right"),
        ("any quantizer", "right"),
    )
    for quality in qualities:
        for i, one in enumerate(quality.fixed):
            made.add_row(
                quality.name if not i else "",
                one.backend,
                _ratio(one.ratio),
                str(one.cells),
                str(one.unserved),
                _ratio(one.with_others),
            )
    return made


def _worst_table(cells: Sequence[Cell]) -> Table:
    made = table(
        "scheme", "N×K", ("M", "right"), ("behind", "right"), ("noise", "right"),
        ("taken", "fold"), ("best", "fold"),
    )  # fmt: skip
    for cell in cells:
        made.add_row(
            cell.scheme,
            f"{cell.n}×{cell.k}",
            str(cell.m),
            f"{(cell.loss or 0.0) * 100:.1f} %",
            f"{cell.noise * 100:.1f} %",
            _named(cell.pick),
            _named(cell.best),
        )
    return made


def _named(best: Best | None) -> str:
    return "-" if best is None else f"{best.us:.2f} µs {best.ids[-1]}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"
