"""The tables of a decoder step: times, the oracle, what served, and what was fused."""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING, Final

from rich.text import Text

from quantmux.bench.decoder.rows import oracle_sums
from quantmux.bench.decoder.variants import AGAIN, BF16, SELECTION
from quantmux.cli._render import heading, show_table, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from quantmux.bench.decoder.rows import DecoderReport, OracleSum, StepRow

NO_NUMBERS: Final = "no GPU: a tiny form that tries the plumbing; these figures mean nothing"
_MODES: Final = ("eager", "graph", "compiled", "compiled graph", "fused", "fused graph")
_TIE: Final = 0.03
"""Within 3 % of the oracle is what the selection is to reach; pipelines so near are a tie."""

_DIM: Final = "dim"


def show_decoder(report: DecoderReport, console: Console) -> None:
    """Print what a run found."""
    console.print(Text(f"{report.title}, {report.date}", style="bold"))
    if report.means_nothing:
        console.print(Text(NO_NUMBERS, style="bold yellow"))
    console.print(Text(_about(report)), soft_wrap=True)
    console.print(heading("pipelines that serve"))
    show_table(console, _served(report))
    for name, pattern in report.denied.items():
        text = f"denied: {name} (deny = {pattern}): neither timed alone nor in the oracle"
        console.print(Text(text, style=_DIM), soft_wrap=True)
    for name, reason in report.skipped.items():
        console.print(Text(f"left out: {name}: {reason}", style=_DIM), soft_wrap=True)
    if report.compile_text:
        console.print(heading("what the fusion pass found"))
        console.print(report.compile_text)
    if report.oracle:
        _show_oracle(report, console)
    console.print(heading("µs of a step, medians; × is the time of bf16 over it, in the same mode"))
    show_table(console, _steps(report))
    noises = [row.aa_noise for row in report.rows if row.kernel == AGAIN and row.aa_noise]
    if noises:
        text = f"A/A, the selection bound twice: {100 * max(noises):.1f} % apart at most"
        console.print(Text(text, style=_DIM))
    if report.means_nothing:
        console.print(Text(NO_NUMBERS, style="bold yellow"))


def _about(report: DecoderReport) -> str:
    step = report.step
    linears = ", ".join(f"{count}× {name}" for name, count in step["linears"].items())
    return (
        f"{report.model}, {report.scheme}: {step['layers']} of {step['of_layers']} layers, "
        f"{step['weight_mb']:,.0f} MB of weights; N×K: {linears}\n"
        f"attention: {step['attention']}; left out: {'; '.join(step['left_out'])}"
    )


def _served(report: DecoderReport) -> Table:
    made = table("variant", "N×K", ("pipeline by ascending M", "fold"))
    for name, linears in report.served.items():
        if name == AGAIN:
            continue
        helped = report.helped.get(name, {})
        for i, (linear, pipelines) in enumerate(linears.items()):
            names = "; ".join(dict.fromkeys(pipelines))
            with_help = f" (with {helped[linear]})" if linear in helped else ""
            made.add_row("" if i else name, linear, names + with_help)
    return made


def _show_oracle(report: DecoderReport, console: Console) -> None:
    sums = oracle_sums(report.oracle)
    console.print(
        heading("linears of a step, µs: what was selected against the fastest of this run")
    )
    made = table(
        *((title, "right") for title in ("M", "selected", "oracle", "loss", "on its form")),
        ("best single backend", "fold"),
        *((title, "right") for title in ("µs", "× selected")),
    )
    for total in sums:
        name, us = _best_single(total)
        loss = Text(f"{100 * total.loss:.1f} %", style="green" if total.loss <= _TIE else "yellow")
        made.add_row(
            str(total.m),
            f"{total.picked_us:.1f}",
            f"{total.best_us:.1f}",
            loss,
            f"{100 * (total.picked_us / total.best_here_us - 1):.1f} %",
            name,
            "-" if us is None else f"{us:.1f}",
            "-" if us is None else f"{us / total.picked_us:.2f}",
        )
    show_table(console, made)
    for total in sums:
        if total.missing:
            text = f"M={total.m}: {total.missing} selected pipelines were not timed: not in the sum"
            console.print(Text(text, style="bold red"))
    for text in _over_backends(sums):
        console.print(Text(text, style=_DIM))
    _show_losses(report, console)


def _best_single(total: OracleSum) -> tuple[str, float | None]:
    times = total.alone or total.by_backend
    if not times:
        return "none serves all", None
    name = min(times, key=lambda each: times[each])
    return name if total.alone else f"{name}'s products", times[name]


def _over_backends(sums: list[OracleSum]) -> list[str]:
    """Say how every backend does over all M: alone, and its products behind anybody's quantizer."""
    found = []
    for what, times in (
        ("all its own", [total.alone for total in sums]),
        ("its products, anybody's quantizers", [total.by_backend for total in sums]),
    ):
        for name in dict.fromkeys(name for one in times for name in one):
            pairs = [
                (one[name], t.picked_us) for one, t in zip(times, sums, strict=True) if name in one
            ]
            mean = geometric_mean([us / picked for us, picked in pairs])
            served = "" if len(pairs) == len(sums) else f", {len(pairs)} of {len(sums)} M"
            found.append(
                f"{name}, {what}, its best for each linear and M: {mean:.3f} × the selection's "
                f"time, geometric mean{served}"
            )
    return found


def _show_losses(report: DecoderReport, console: Console) -> None:
    """Print the linears that lose more than a tie, the dearest for the step first."""
    bad = [line for line in report.oracle if line.loss is not None and line.loss > _TIE]
    if not bad:
        console.print(Text("no linear is more than 3 % behind the fastest", style="green"))
        return
    bad.sort(key=lambda x: -x.count * ((x.picked_us or 0.0) - x.best_us))
    titles = ("N×K", "M", "loss", "A/A", "µs in the step")
    made = table(*((title, "right") for title in titles), ("selected", "fold"), ("fastest", "fold"))
    for line in bad:
        lost = line.count * ((line.picked_us or 0.0) - line.best_us)
        noise = "-" if line.aa_noise is None else f"{100 * line.aa_noise:.1f} %"
        made.add_row(
            f"{line.n}x{line.k}",
            str(line.m),
            f"{100 * (line.loss or 0.0):.1f} %",
            noise,
            f"{lost:.1f}",
            f"{line.picked} {line.picked_us:.1f}",
            f"{line.best} {line.best_us:.1f}",
        )
    console.print(heading("linears more than 3 % behind the fastest of this run"))
    show_table(console, made)


def _steps(report: DecoderReport) -> Table:
    modes = [mode for mode in _MODES if any(row.mode == mode for row in report.rows)]
    made = table(("M", "right"), "variant", *((mode, "right") for mode in modes))
    for case in dict.fromkeys((row.phase, row.m) for row in report.rows):
        same = [row for row in report.rows if (row.phase, row.m) == case and row.kernel != AGAIN]
        for i, name in enumerate(dict.fromkeys(row.kernel for row in same)):
            by_mode = {row.mode: row for row in same if row.kernel == name}
            cells = [_cell(by_mode.get(mode)) for mode in modes]
            style = "bold" if name == SELECTION else _DIM if name == BF16 else ""
            made.add_row("" if i else f"{case[0]} {case[1]}", Text(name, style=style), *cells)
    return made


def _cell(row: StepRow | None) -> Text:
    if row is None:
        return Text("")
    if row.us is None:
        return Text("FAILED", style="bold red")
    us = f"{row.us:,.0f}" if row.us >= 1000 else f"{row.us:.1f}"
    ratio = "" if row.kernel == BF16 or row.ratio is None else f" ×{row.ratio:.2f}"
    return Text(us + ratio)
