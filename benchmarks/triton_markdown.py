"""The table of the Triton backend as Markdown, from its result file alone.

python benchmarks/triton_markdown.py RESULT.json
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = Mapping[str, Any]
PDL_OFF = ", PDL off"
RESULT = re.compile(r"[\w.-]+-triton-table\.json")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
_LARGE_M = 1024


class Cases:
    """The rows of a result by case: the best of ours, the same without PDL, and every peer."""

    def __init__(self, rows: Iterable[Row], pick: Callable[[Row], bool]) -> None:
        self._cases: dict[str, list[Row]] = {}
        for row in rows:
            if row["kind"] in ("kernel", "peer") and pick(row):
                self._cases.setdefault(row["case"], []).append(row)

    def __iter__(self) -> Any:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def first(self, case: str) -> Row:
        """Give a row of the case, timed or not, for what all its rows share."""
        return self._cases[case][0]

    def ours(self, case: str, *, off: bool = False) -> Row | None:
        """Give our fastest row; if ``off``, of what needs no programmatic dependence."""
        ours = [r for r in self._cases[case] if r["kind"] == "kernel" and r["us"]]
        twins = {r["kernel"].removesuffix(PDL_OFF) for r in ours if r["kernel"].endswith(PDL_OFF)}
        if off:
            found = [r for r in ours if twins and r["kernel"] not in twins]
        else:
            found = [r for r in ours if not r["kernel"].endswith(PDL_OFF)]
        return min(found, key=lambda row: row["us"], default=None)

    def peer(self, case: str, name: str) -> float | None:
        """Give the µs of a peer, None where it has none."""
        return next(
            (r["us"] for r in self._cases[case] if r["kind"] == "peer" and r["kernel"] == name),
            None,
        )

    def failed(self) -> list[str]:
        """Give what was not timed because it disagreed or did not run."""
        return [
            f"{row['kernel']} on {row['case']}: {row['reason']}"
            for rows in self._cases.values()
            for row in rows
            if row["status"] != "ok"
        ]

    def ratio(self, name: str, *, off: bool = False, pick: Callable[[Row], bool] = bool) -> Any:
        """Give the geometric mean of a peer's µs over ours, and over how many cases."""
        found = []
        for case in self:
            us, row = self.peer(case, name), self.ours(case, off=off)
            if us and row and pick(row):
                found.append(us / row["us"])
        return _geomean(found), len(found)


def brief(data: Mapping[str, Any]) -> str:
    """Give ceilings, the issue's lines filled in, and what has no time."""
    return "\n".join([*_head(data), "", *_summary(data["rows"]), "", *_foot(data)]).rstrip() + "\n"


def table(data: Mapping[str, Any]) -> str:
    """Give all of `brief` and every case."""
    rows: Sequence[Row] = data["rows"]
    lines = [*_head(data), "", *_summary(rows), ""]
    for title, part in (
        ("Group quantization", _group(_pick(rows, "quantize", "fp8_group128"))),
        ("SiLU·mul and group quantization", _silu(_pick(rows, "silu_mul_quantize"))),
        ("Inverse RoPE and group quantization", _rope(_pick(rows, "inverse_rope_quantize"))),
        ("NVFP4 quantization", _nvfp4(Cases(rows, _is_nvfp4_quantizer))),
        ("FP8 block linear, small M", _small(_linear(rows, "fp8_block128", large=False), _BLOCK)),
        (
            "FP8 channel/token linear, small M",
            _small(_linear(rows, _ROW_SCHEME, large=False), _ROW),
        ),
        ("FP8 linears, large M", _large(rows)),
        ("NVFP4 W4A16", _weight_only(_pick(rows, "linear", "nvfp4_w4a16"))),
        ("What the host needs to queue one call", _host(rows)),
    ):
        if part:
            lines += [f"### {title}", "", *part, ""]
    return "\n".join([*lines, *_foot(data)]).rstrip() + "\n"


def _foot(data: Mapping[str, Any]) -> list[str]:
    lines = [f"Not timed: {line}." for line in Cases(data["rows"], lambda _: True).failed()]
    lines += [f"Not here: {name}: {why}." for name, why in data["missing"].items()]
    if data["protocol"].get("left_out"):
        lines.append(f"Left out by the budget: {len(data['protocol']['left_out'])} cases.")
    return lines


_ROW_SCHEME = "fp8_channel_token"
_BLOCK = ("DeepGEMM", "DeepGEMM PDL", "torch._scaled_mm fast")
_ROW = ("vLLM cutlass_scaled_mm", "torch._scaled_mm")
_SHORT = {
    "torch._scaled_mm fast": "torch fast",
    "torch._scaled_mm": "torch",
    "vLLM cutlass_scaled_mm": "vLLM CUTLASS",
    "vLLM per_token_group_fp8_quant": "vLLM",
}


def _head(data: Mapping[str, Any]) -> list[str]:
    ceilings, versions = data["ceilings"], data["versions"]
    noises = [r["aa_noise"] for r in data["rows"] if r["aa_noise"] is not None]
    cast = data["protocol"].get("cast_gb_s")
    node = next((r["us"] for r in data["rows"] if r["kind"] == "node"), None)
    parts = [
        f"{data['title']}, {data['date']}",
        f"copy {ceilings.get('copy_gb_s', 0):.0f} GB/s",
        *([f"cast of bf16 to fp8 {cast:.0f} GB/s"] if cast else []),
        f"fp8 {ceilings.get('fp8_tflops', 0):.0f} TFLOP/s",
        f"bf16 {ceilings.get('bf16_tflops', 0):.0f} TFLOP/s",
        f"empty graph node {_us(node)} µs",
    ]
    if noises:
        parts.append(
            f"A/A {100 * median(noises):.1f} % in the median, {100 * max(noises):.1f} % at most"
        )
    parts.append(", ".join(f"{k} {v}" for k, v in versions.items()))
    return ["; ".join(parts) + "."]


def _summary(rows: Sequence[Row]) -> list[str]:
    lines = ["| op | reach | measured |", "|---|---|---|"]
    for name, reach, found in (
        (
            "group quant, ≥ 32 MB in",
            "≥ 90 % of copy",
            _least(rows, "quantize", "fp8_group128", 4096),
        ),
        ("group quant, 16×7168", "≤ 2.5 µs", _tiny(rows)),
        (
            "SiLU·mul + quant, ≥ 2048×4096",
            "≥ 88 % of copy; ≥ 4x vLLM fused, 2x its two, 5x torch at 2048×14336",
            _silu_line(rows),
        ),
        ("inverse RoPE + quant, T·H ≥ 64 k", "≥ 80 % of copy", _rope_line(rows)),
        (
            "NVFP4 quant, ≥ 4096×7168",
            "≥ 70 % of copy; padded within 3 %; ≥ 1.8x quantize-then-pad at M ≤ 128",
            _nvfp4_line(rows),
        ),
        (
            "FP8 block linear, M ≤ 64",
            "geomean ≥ 1.15x DeepGEMM",
            _ratios(_linear(rows, "fp8_block128", large=False), _BLOCK),
        ),
        (
            "FP8 channel/token linear, M ≤ 64",
            "geomean ≥ 1.0x vLLM CUTLASS, ≥ 2x torch row-wise",
            _ratios(_linear(rows, _ROW_SCHEME, large=False), _ROW),
        ),
        (
            "FP8 linear, M ≥ 2048",
            "row ≥ 90 % of cuBLASLt; block ≥ 75 % of the best",
            _large_line(rows),
        ),
        ("NVFP4 W4A16, M ≤ 16", "≥ 2.2x bf16 on each", _weight_line(rows)),
    ):
        lines.append(f"| {name} | {reach} | {found or 'not measured'} |")
    return lines


def _pick(rows: Sequence[Row], op: str, scheme: str | None = None) -> Cases:
    return Cases(rows, lambda r: r["op"] == op and scheme in (None, r["scheme"]))


def _linear(rows: Sequence[Row], scheme: str, *, large: bool) -> Cases:
    def pick(row: Row) -> bool:
        is_it = row["op"] == "linear" and row["scheme"] == scheme
        return bool(is_it) and (row["m"] >= _LARGE_M) == large

    return Cases(rows, pick)


def _least(rows: Sequence[Row], op: str, scheme: str, m: int) -> str:
    cases = _pick(rows, op, scheme)
    found = [r["pct_of_ceiling"] for c in cases if (r := cases.ours(c)) and r["m"] >= m]
    return f"{min(found):.0f}–{max(found):.0f} %" if found else ""


def _tiny(rows: Sequence[Row]) -> str:
    cases = _pick(rows, "quantize", "fp8_group128")
    found = [_both(cases, c) for c in cases if cases.first(c)["m"] == 16]
    return "; ".join(f"{text} µs" for text in found)


def _silu_line(rows: Sequence[Row]) -> str:
    cases = _pick(rows, "silu_mul_quantize")
    parts = [_least(rows, "silu_mul_quantize", "fp8_group128", 2048)]
    for case in cases:
        row = cases.ours(case)
        if row and (row["m"], row["n"]) == (2048, 14336):
            for name in ("vLLM fused", "vLLM two kernels", "torch silu*mul + vLLM quant"):
                us = cases.peer(case, name)
                parts.append(f"{us / row['us']:.1f}x {name}" if us else "")
    return "; ".join(part for part in parts if part)


def _rope_line(rows: Sequence[Row]) -> str:
    cases = _pick(rows, "inverse_rope_quantize")
    least = _least(rows, "inverse_rope_quantize", "fp8_group128_pow2", 0)
    ratio, count = cases.ratio("one warp per head")
    return "; ".join(p for p in (least, f"{ratio:.2f}x one warp per head" if count else "") if p)


def _nvfp4_line(rows: Sequence[Row]) -> str:
    cases = _pick(rows, "quantize", "nvfp4_static")
    parts = [_least(rows, "quantize", "nvfp4_static", 4096)]
    by = {(_layout(c), r["n"], r["m"]): r["us"] for c in cases if (r := cases.ours(c))}
    for m in (4096, 8192):
        plain, padded = by.get(("swizzled_128x4", 7168, m)), by.get(("swizzled_128x4", 7152, m))
        if plain and padded:
            parts.append(f"padded {100 * (padded / plain - 1):+.1f} % at M = {m}")
    found = [
        us / row["us"]
        for c in cases
        if (row := cases.ours(c))
        and row["m"] <= 128
        and (us := cases.peer(c, "quantize, then pad"))
    ]
    if found:
        parts.append(f"{min(found):.1f}–{max(found):.1f}x quantize-then-pad")
    return "; ".join(part for part in parts if part)


def _ratios(cases: Cases, names: Sequence[str]) -> str:
    parts = []
    for name in names:
        on, count = cases.ratio(name)
        off, has_off = cases.ratio(name, off=True)
        if count:
            more = f" ({off:.2f}x with PDL off)" if has_off else ""
            parts.append(f"{on:.2f}x {_SHORT.get(name, name)}{more}, {count} cases")
    return "; ".join(parts)


def _large_line(rows: Sequence[Row]) -> str:
    parts = []
    row_cases = _linear(rows, _ROW_SCHEME, large=True)
    for name in ("torch._scaled_mm fast", "vLLM cutlass_scaled_mm"):
        ratio, count = row_cases.ratio(name)
        if count:
            parts.append(f"row {100 * ratio:.0f} % of {_SHORT[name]}")
    block = _linear(rows, "fp8_block128", large=True)
    found = []
    for case in block:
        row, times = block.ours(case), [us for n in _BLOCK if (us := block.peer(case, n))]
        if row and times:
            found.append(min(times) / row["us"])
    if found:
        parts.append(
            f"block {100 * _geomean(found):.0f} % of the best ({100 * min(found):.0f} % at least)"
        )
    return "; ".join(parts)


def _weight_line(rows: Sequence[Row]) -> str:
    cases = _pick(rows, "linear", "nvfp4_w4a16")
    found = [
        us / r["us"] for c in cases if (r := cases.ours(c)) and (us := cases.peer(c, "torch bf16"))
    ]
    return f"{min(found):.2f}–{max(found):.2f}x, geomean {_geomean(found):.2f}x" if found else ""


def _group(cases: Cases) -> list[str]:
    return _grid(
        "M×N | scales | µs (PDL off) | GB/s | % of copy | vLLM µs",
        (
            (
                _size(r),
                _layout(c),
                _both(cases, c),
                f"{r['gb_s']:.0f}",
                _pct(r),
                _us(cases.peer(c, "vLLM per_token_group_fp8_quant")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def _silu(cases: Cases) -> list[str]:
    names = ("vLLM fused", "vLLM two kernels", "torch silu*mul + vLLM quant")
    return _grid(
        "M×N | µs (PDL off) | GB/s | % of copy | " + " | ".join(f"{name} µs" for name in names),
        (
            (
                _size(r),
                _both(cases, c),
                f"{r['gb_s']:.0f}",
                _pct(r),
                *(_us(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def _rope(cases: Cases) -> list[str]:
    def heads(case: str) -> str:
        found = re.search(r"heads=(\d+)", case)
        return found[1] if found else "?"

    return _grid(
        "T×heads | scales | µs (PDL off) | GB/s | % of copy | one warp per head µs",
        (
            (
                f"{r['m']}×{heads(c)}",
                _layout(c),
                _both(cases, c),
                f"{r['gb_s']:.0f}",
                _pct(r),
                _us(cases.peer(c, "one warp per head")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def _nvfp4(cases: Cases) -> list[str]:
    return _grid(
        "M×N | global scale | layout | µs (PDL off) | GB/s | % of copy | quantize, then pad µs",
        (
            (
                _size(r),
                "given" if r["scheme"] == "nvfp4_static" else "found",
                _layout(c),
                _both(cases, c),
                f"{r['gb_s']:.0f}",
                _pct(r),
                _us(cases.peer(c, "quantize, then pad")),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    )


def _is_nvfp4_quantizer(row: Row) -> bool:
    return row["op"] == "quantize" and str(row["scheme"]).startswith("nvfp4")


def _small(cases: Cases, names: Sequence[str]) -> list[str]:
    return _grid(
        "N×K | M | µs (PDL off) | % of floor | "
        + " | ".join(f"{_SHORT.get(n, n)} µs" for n in names),
        (
            (
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                _both(cases, c),
                _pct(r),
                *(_us(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ),
    ) + _winners(cases)


def _large(rows: Sequence[Row]) -> list[str]:
    names = ("torch._scaled_mm fast", "torch._scaled_mm", "vLLM cutlass_scaled_mm", "DeepGEMM")
    lines: list[tuple[str, ...]] = []
    for kind, scheme in (("row", _ROW_SCHEME), ("block", "fp8_block128")):
        cases = _linear(rows, scheme, large=True)
        lines += [
            (
                kind,
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                _both(cases, c),
                f"{r['tflops']:.0f}",
                *(_us(cases.peer(c, n)) for n in names),
            )
            for c in cases
            if (r := cases.ours(c))
        ]
    return _grid(
        "scales | N×K | M | µs (PDL off) | TFLOP/s | "
        + " | ".join(f"{_SHORT.get(n, n)} µs" for n in names),
        lines,
    )


def _weight_only(cases: Cases) -> list[str]:
    return _grid(
        "N×K | M | µs (PDL off) | GB/s | % of floor | bf16 µs | ratio",
        (
            (
                f"{r['n']}×{r['k']}",
                str(r["m"]),
                _both(cases, c),
                f"{r['gb_s']:.0f}",
                _pct(r),
                _us(us),
                f"{us / r['us']:.2f}" if us else "–",
            )
            for c in cases
            if (r := cases.ours(c))
            for us in (cases.peer(c, "torch bf16"),)
        ),
    )


def _host(rows: Sequence[Row]) -> list[str]:
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


def _both(cases: Cases, case: str) -> str:
    on, off = cases.ours(case), cases.ours(case, off=True)
    return _us(on["us"] if on else None) + (f" ({_us(off['us'])})" if off else "")


def _size(row: Row) -> str:
    return f"{row['m']}×{row['n']}"


def _layout(case: str) -> str:
    names = r"row_major|col_major_aligned4|col_major|packed_pow2|swizzled_128x4|swizzled_8x4"
    found = re.search(rf"\b({names})\b", case)
    return found[1] if found else ""


def _pct(row: Row) -> str:
    return "–" if row["pct_of_ceiling"] is None else f"{row['pct_of_ceiling']:.0f}"


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def filled(page: str, data: Mapping[str, Any]) -> str:
    """Give a page with the table between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table(data)}\n{END}{after}"


if __name__ == "__main__":
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) > 2:
        target = Path(sys.argv[2])
        target.write_text(filled(target.read_text(encoding="utf-8"), result), encoding="utf-8")
    else:
        print(table(result))
