"""The tables of the seeds: a case a line, then the means, the claim, and one table of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from quantmux.bench.seeds.report import NO_NUMBERS
from quantmux.bench.seeds.table import Line, further, lines
from quantmux.cli._render import heading, show_table, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

    from quantmux.bench.seeds.experiment import Extra
    from quantmux.bench.seeds.report import SeedReport, Told
    from quantmux.bench.seeds.rows import SeedRow

_DIM: Final = "dim"


def show_seeds(report: SeedReport, console: Console) -> None:
    """Print a table per experiment and one of all of them."""
    console.print(Text(f"{report.title}, {report.date}", style="bold"))
    if report.size == "tiny":
        console.print(Text(NO_NUMBERS, style="bold yellow"))
    console.print(Text(_ceilings(report), style=_DIM))
    for name, told in report.told.items():
        _show(report, name, told, console)
    if len(report.told) > 1:
        console.print(heading("all of them, geometric means over the cases"))
        show_table(console, _summary(report))
    if report.size == "tiny":
        console.print(Text(NO_NUMBERS, style="bold yellow"))


def _show(report: SeedReport, name: str, told: Told, console: Console) -> None:
    about, rows = told.about, report.of(name)
    console.print(heading(f"{name}: {about.title} (vllm#{about.pull_request})"))
    console.print(f"the report says: {about.claim.figure} ({about.claim.measured})")
    console.print(f"ours is to reach: {about.reach}")
    found = lines(rows)
    show_table(console, _table(found, about.extras))
    console.print(Text(_means(report, name), style="bold"))
    for other in further(rows):
        counted = ""
        if other.launches:
            low, high = other.launches
            counted = f", {low:g}–{high:g} kernels" if low != high else f", {low:g} kernels"
        host = f", host {other.host_us:.0f} µs" if other.host_us is not None else ""
        ratio = f"{other.ratio:.2f} × the time of ours" if other.ratio else "beside a control only"
        text = f"also, {other.kind}: {other.name}: {ratio} ({_cases(other.cases)}{host}{counted})"
        console.print(Text(text, style=_DIM))
    for text in _reasons(found):
        console.print(Text(text, style=_DIM))
    for text in told.remarks:
        console.print(Text(text))


def _table(found: Sequence[Line], extras: Sequence[Extra]) -> Table:
    rows = [row for line in found for row in line.main if row is not None]
    with_host = any(row.host_us is not None for row in rows)
    with_kernels = any(row.launches is not None for row in rows)
    extras = [extra for extra in extras if any(extra.key in row.extra for row in rows)]
    titles = ["before µs", "seed µs", "ours µs", "before/ours", "seed/ours", "A/A"]
    titles += ["host µs"] if with_host else []
    titles += ["kernels"] if with_kernels else []
    titles += [extra.title for extra in extras]
    made = table(("case", "fold"), *((title, "right") for title in titles))
    for line in found:
        noise = line.ours.aa_noise if line.ours is not None else None
        cells: list[str | Text] = [
            line.case + (" (control)" if line.is_control else ""),
            *(_time(line, kind, row) for kind, row in zip(_KINDS, line.main, strict=True)),
            _ratio(line.ours.before_ratio if line.ours else None),
            _ratio(line.ours.ratio if line.ours else None),
            "-" if noise is None else f"{noise * 100:.1f} %",
        ]
        if with_host:
            cells.append(_three(None if row is None else row.host_us for row in line.main))
        if with_kernels:
            kernels = (None if row is None else row.launches for row in line.main)
            cells.append(_three(kernels, "g"))
        for extra in extras:
            values = (None if row is None else row.extra.get(extra.key) for row in line.main)
            cells.append(_three(values, f".{extra.digits}f"))
        made.add_row(*cells)
    return made


_KINDS: Final = ("before", "seed", "ours")


def _time(line: Line, kind: str, row: SeedRow | None) -> Text:
    if row is not None:
        return Text(_number(row.us))
    lost = next((other for other in line.untimed if other.kind == kind), None)
    if lost is None:
        return Text("-")
    return Text("FAILED", style="bold red") if lost.status == "failed" else Text("refused")


def _means(report: SeedReport, name: str) -> str:
    found = report.summary(name)
    parts = [f"geometric mean of {_cases(found['cases'])}"]
    for key, title in (("before", "before/ours"), ("seed", "seed/ours")):
        if found[key] is not None:
            low, high = found[f"least_{key}"], found[f"most_{key}"]
            parts.append(f"{title} {found[key]:.2f} ({low:.2f} to {high:.2f})")
    if found["seed_over_before"] is not None:
        parts.append(f"before/seed {found['seed_over_before']:.2f}")
    if found["aa_noise"] is not None:
        parts.append(f"A/A {found['aa_noise'] * 100:.1f} % (worst {found['worst_aa'] * 100:.1f} %)")
    return ", ".join(parts)


def _reasons(found: Sequence[Line]) -> list[str]:
    """Give why variants were not timed, each reason once."""
    reasons: dict[tuple[str, str], int] = {}
    for line in found:
        for row in line.untimed:
            key = (f"{row.kernel}: {row.status}", row.reason)
            reasons[key] = reasons.get(key, 0) + 1
    return [f"{who} on {_cases(count)}: {why}" for (who, why), count in reasons.items()]


def _summary(report: SeedReport) -> Table:
    titles = ("vllm#", "cases", "before/ours", "seed/ours", "before/seed", "A/A")
    numbers = ((title, "right") for title in titles)
    made = table("experiment", *numbers, ("the report says", "fold"))
    for name, told in report.told.items():
        found = report.summary(name)
        noise = found["aa_noise"]
        made.add_row(
            name,
            str(told.about.pull_request),
            str(found["cases"]),
            _ratio(found["before"]),
            _ratio(found["seed"]),
            _ratio(found["seed_over_before"]),
            "-" if noise is None else f"{noise * 100:.1f} %",
            told.about.claim.figure,
        )
    return made


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _ratio(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:.2f}", style="green" if value >= 1 else "yellow")


def _three(values: Iterable[float | None], form: str = ".0f") -> str:
    cells = ["-" if value is None else format(value, form) for value in values]
    return "" if set(cells) == {"-"} else " / ".join(cells)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _ceilings(report: SeedReport) -> str:
    parts = [f"size {report.size}", f"{report.protocol['rounds']} rounds in turns"]
    if "copy_gb_s" in report.ceilings:
        parts.append(f"copy {report.ceilings['copy_gb_s']:,.0f} GB/s")
    parts.append("host and kernels: before / seed / ours")
    return ", ".join(parts)
