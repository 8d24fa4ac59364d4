"""The table of a bench run: per case, fastest first."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from rich.text import Text

from quantmux.cli._render import heading, show_table, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from quantmux.bench.rows import Report, Row

_GOOD: Final = 70.0
_ARROW: Final = "\n-> "


def show_report(report: Report, console: Console) -> None:
    """Print one table, a line of ceilings, and what could not be timed."""
    console.print(Text(f"{report.title}, {report.date}", style="bold"))
    console.print(_ceilings(report))
    for config in dict.fromkeys(_config(row) for row in report.rows if row.kind != "node"):
        console.print(heading(config))
        show_table(console, _table(report, config))
    for name, reason in report.missing.items():
        console.print(Text(f"not here: {name}: {reason}", style="dim"))
    cold = [row for row in report.rows if row.us and row.copies and not row.cold]
    if cold:
        text = f"{len(cold)} rows are warm: {cold[0].copies} copies of so little fit in the cache"
        console.print(Text(text, style="dim"))


def _table(report: Report, config: str) -> Table:
    rows = [r for r in report.rows if _config(r) == config and r.kind in ("kernel", "peer")]
    with_warm = any(row.warm_us is not None for row in report.rows)
    with_host = any(row.host_us is not None for row in report.rows)
    columns: list[str | tuple[str, str]] = [("M", "right"), ("kernel", "fold")]
    titles = ["µs", "±", "GB/s", "FLOP/s", "ceiling", "peer/µs"]
    titles += ["warm µs"] if with_warm else []
    titles += ["host µs"] if with_host else []
    made = table(*columns, *((title, "right") for title in titles))
    for m in sorted({row.m for row in rows}):
        same = [row for row in rows if row.m == m]
        same.sort(key=lambda r: (r.us is None, r.part == "gemm", r.us or 0.0))
        for i, row in enumerate(same):
            extra = [_number(row.warm_us)] if with_warm else []
            extra += [_number(row.host_us)] if with_host else []
            made.add_row(str(m) if not i else "", *_cells(row), *(extra if row.us else ()))
    return made


def _cells(row: Row) -> list[str | Text]:
    name = row.kernel.replace(" -> ", _ARROW)
    if row.part == "gemm" and row.kind == "kernel":
        name += " (alone)"
    if row.env:
        name += f" [{row.env}]"
    label = Text(name, style="dim" if row.kind == "peer" else "")
    if row.us is None:
        return [label, Text("FAILED", style="bold red")]
    share = row.pct_of_ceiling
    ratio = Text("-")
    if row.ratio:
        ratio = Text(f"{row.ratio:.2f}", style="green" if row.ratio >= 1 else "yellow")
    return [
        label,
        _number(row.us),
        f"{row.noise * 100:.1f} %",
        f"{row.gb_s:,.0f}" if row.gb_s and row.gb_s >= 10 else f"{row.gb_s or 0.0:.2g}",
        _rate(row.tflops),
        Text("-" if share is None else f"{share:.0f} %", style="green" if _is_good(share) else ""),
        ratio,
    ]


def _config(row: Row) -> str:
    return row.case.rpartition(" M=")[0]


def _is_good(share: float | None) -> bool:
    return share is not None and share >= _GOOD


def _rate(tflops: float | None) -> str:
    if not tflops:
        return "-"
    for unit, size in (("T", 1.0), ("G", 1e-3), ("M", 1e-6)):
        if tflops >= size:
            return f"{tflops / size:,.0f} {unit}"
    return f"{tflops * 1e12:.0f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _ceilings(report: Report) -> str:
    found = report.ceilings
    parts = [f"copy {found['copy_gb_s']:,.0f} GB/s"] if "copy_gb_s" in found else []
    for name, value in found.items():
        if name.endswith("_tflops"):
            unit = f"{value:,.0f} TFLOP/s" if value >= 10 else f"{value * 1e3:,.0f} GFLOP/s"
            parts.append(f"{name.removesuffix('_tflops')} {unit}")
    node = next((row.us for row in report.rows if row.kind == "node" and row.us), None)
    if node is not None:
        parts.append(f"empty graph node {node:.2f} µs")
    noises = [row.aa_noise for row in report.rows if row.kind == "aa" and row.aa_noise is not None]
    if noises:
        parts.append(f"A/A {median(noises) * 100:.1f} % (worst {max(noises) * 100:.1f} %)")
    for name, env in report.environments.items():
        there = env["ceilings"].get("copy_gb_s")
        parts.append(f"in {name}'s process copy {there:,.0f} GB/s" if there else f"{name} apart")
    return "ceilings: " + ", ".join(parts)
