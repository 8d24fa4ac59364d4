"""Every case of the Triton table, op by op, as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from triton_cases import (
    PDL_OFF,
    ROW_SCHEME,
    SHORT,
    Cases,
    Row,
    both,
    layout,
    linears,
    percent,
    size,
    us_text,
)


def group(cases: Cases) -> list[str]:
    return _grid(
        "M×N | scales | µs (PDL off) | GB/s | % of copy | vLLM µs",
        (
            (
                size(r),
                layout(c),
                both(cases, c),
                f"{r['gb_s']:.0f}",
                percent(r),
                us_text(cases.peer(c, "vLLM per_token_group_fp8_quant")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def silu(cases: Cases) -> list[str]:
    names = ("vLLM fused", "vLLM two kernels", "torch silu*mul + vLLM quant")
    return _grid(
        "M×N | µs (PDL off) | GB/s | % of copy | " + " | ".join(f"{name} µs" for name in names),
        (
            (
                size(r),
                both(cases, c),
                f"{r['gb_s']:.0f}",
                percent(r),
                *(us_text(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def rope(cases: Cases) -> list[str]:
    def heads(case: str) -> str:
        found = re.search(r"heads=(\d+)", case)
        return found[1] if found else "?"

    return _grid(
        "T×heads | scales | µs (PDL off) | GB/s | % of copy | one warp per head µs",
        (
            (
                f"{r['m']}×{heads(c)}",
                layout(c),
                both(cases, c),
                f"{r['gb_s']:.0f}",
                percent(r),
                us_text(cases.peer(c, "one warp per head")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def nvfp4(cases: Cases) -> list[str]:
    return _grid(
        "M×N | global scale | layout | µs (PDL off) | GB/s | % of copy | quantize, then pad µs",
        (
            (
                size(r),
                "given" if r["scheme"] == "nvfp4_static" else "found",
                layout(c),
                both(cases, c),
                f"{r['gb_s']:.0f}",
                percent(r),
                us_text(cases.peer(c, "quantize, then pad")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def is_nvfp4_quantizer(row: Row) -> bool:
    return row["op"] == "quantize" and str(row["scheme"]).startswith("nvfp4")


def small(cases: Cases, names: Sequence[str]) -> list[str]:
    return _grid(
        "N×K | M | µs (PDL off) | % of floor | "
        + " | ".join(f"{SHORT.get(n, n)} µs" for n in names),
        (
            (
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                both(cases, c),
                percent(r),
                *(us_text(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    ) + _winners(cases)


def large(rows: Sequence[Row]) -> list[str]:
    names = ("torch._scaled_mm fast", "vLLM cutlass_scaled_mm", "DeepGEMM", "DeepGEMM PDL")
    lines: list[tuple[str, ...]] = []
    for kind, scheme in (("row", ROW_SCHEME), ("block", "fp8_block128")):
        cases = linears(rows, scheme, large=True)
        lines += [
            (
                kind,
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                both(cases, c),
                f"{r['tflops']:.0f}",
                *(us_text(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ]
    return _grid(
        "scales | N×K | M | µs (PDL off) | TFLOP/s | "
        + " | ".join(f"{SHORT.get(n, n)} µs" for n in names),
        lines,
    )


def weight_only(cases: Cases) -> list[str]:
    return _grid(
        "N×K | M | µs (PDL off) | GB/s | % of floor | bf16 µs | ratio",
        (
            (
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                both(cases, c),
                f"{r['gb_s']:.0f}",
                percent(r),
                us_text(us),
                f"{us / r['us']:.2f}" if us else "–",
            )
            for c in cases
            if (r := cases.ours(c))
            for us in (cases.peer(c, "torch bf16"),)
        ),
    )


def host(rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get("host_us") and not row["kernel"].endswith(PDL_OFF):
            found.setdefault(row["kernel"], []).append(row["host_us"])
    return _grid(
        "kernel | µs, median | cases",
        ((name, f"{median(us):.1f}", str(len(us))) for name, us in sorted(found.items())),
    )


def _winners(*fields: Cases) -> list[str]:
    """Say which of our kernels was the fastest, and how often."""
    found = Counter(
        row["kernel"].partition(PDL_OFF)[0]
        for cases in fields
        for c in cases
        if (row := cases.ours(c))
    )
    names = ", ".join(f"`{name}` {count}" for name, count in found.most_common())
    return ["", f"Fastest of ours: {names}."] if len(found) > 1 else []


def _grid(head: str, body: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(line) + " |" for line in body]
    columns = head.count("|") + 1
    return [f"| {head} |", "|---" * columns + "|", *lines] if lines else []
