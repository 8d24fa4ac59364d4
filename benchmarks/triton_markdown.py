"""The table of the Triton backend as Markdown, from its result file alone.

    python benchmarks/triton_markdown.py RESULT.json
    python benchmarks/triton_markdown.py --page PAGE.md

The second replaces every table of a page, as its marks say, by that of a result in `results`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from triton_cases import (
    BLOCK_PEERS,
    ROW_PEERS,
    ROW_SCHEME,
    SHORT,
    Cases,
    Row,
    both,
    geomean,
    layout,
    linears,
    pick,
    us_text,
)
from triton_details import (
    group,
    host,
    is_nvfp4_quantizer,
    large,
    nvfp4,
    rope,
    silu,
    small,
    weight_only,
)
from triton_fits import limits

_BLOCK = re.compile(
    r"(?P<begin><!-- (?P<kind>[a-z]+): (?P<name>[\w.-]+) -->).*?<!-- end of table -->",
    re.DOTALL,
)


def brief(data: Mapping[str, Any]) -> str:
    """Give ceilings, the issue's lines filled in, and what has no time."""
    return "\n".join([*head(data), "", *_summary(data["rows"]), "", *_foot(data)]).rstrip() + "\n"


def table(data: Mapping[str, Any]) -> str:
    """Give all of `brief` and every case."""
    rows: Sequence[Row] = data["rows"]
    lines = [*head(data), "", *_summary(rows), ""]
    block = linears(rows, "fp8_block128", large=False)
    for title, part in (
        ("Group quantization", group(pick(rows, "quantize", "fp8_group128"))),
        ("SiLU·mul and group quantization", silu(pick(rows, "silu_mul_quantize"))),
        ("Inverse RoPE and group quantization", rope(pick(rows, "inverse_rope_quantize"))),
        ("NVFP4 quantization", nvfp4(Cases(rows, is_nvfp4_quantizer))),
        (
            "FP8 block linear, small M",
            small(block, BLOCK_PEERS),
        ),
        (
            "FP8 channel/token linear, small M",
            small(linears(rows, ROW_SCHEME, large=False), ROW_PEERS),
        ),
        ("FP8 linears, large M", large(rows)),
        ("NVFP4 W4A16", weight_only(pick(rows, "linear", "nvfp4_w4a16"))),
        ("What limits them: a fixed time, and a rate", limits(rows, data["ceilings"]["copy_gb_s"])),
        ("What the host needs to queue one call", host(rows)),
    ):
        if part:
            lines += [f"### {title}", "", *part, ""]
    return "\n".join([*lines, *_foot(data)]).rstrip() + "\n"


def _foot(data: Mapping[str, Any]) -> list[str]:
    lines = [f"Not timed: {line}." for line in Cases(data["rows"], lambda _: True).failed()]
    lines += [f"Not here: {name}: {why}." for name, why in data["missing"].items()]
    lines += _selection(data)
    if data["protocol"].get("left_out"):
        lines.append(f"Left out by the budget: {len(data['protocol']['left_out'])} cases.")
    return lines


def _selection(data: Mapping[str, Any]) -> list[str]:
    """Say where selection, as it was in the run, takes another kernel than our fastest."""
    cases = Cases(data["rows"], lambda _: True)
    others: dict[tuple[str, str], list[str]] = {}
    for case, ids in data["protocol"].get("selected", {}).items():
        best = cases.ours(case) if case in set(cases) else None
        if best and ids and ids[-1] != best["kernel"]:
            others.setdefault((ids[-1], best["kernel"]), []).append(case)
    return [
        f"Selection took `{taken}` in {len(found)} cases where `{best}` is faster: {found[0]}"
        + (" …" if len(found) > 1 else ".")
        for (taken, best), found in others.items()
    ]


def head(data: Mapping[str, Any]) -> list[str]:
    """Give the run: device, date, ceilings, noise and versions."""
    ceilings, versions = data["ceilings"], data["versions"]
    noises = [r["aa_noise"] for r in data["rows"] if r["aa_noise"] is not None]
    node = next((r["us"] for r in data["rows"] if r["kind"] == "node"), None)
    parts = [
        f"{data['title']}, {data['date']}",
        f"copy {ceilings.get('copy_gb_s', 0):.0f} GB/s",
        f"fp8 {ceilings.get('fp8_tflops', 0):.0f} TFLOP/s",
        f"bf16 {ceilings.get('bf16_tflops', 0):.0f} TFLOP/s",
        f"empty graph node {us_text(node)} µs",
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
            _ratios(linears(rows, "fp8_block128", large=False), BLOCK_PEERS),
        ),
        (
            "FP8 channel/token linear, M ≤ 64",
            "geomean ≥ 1.0x vLLM CUTLASS, ≥ 2x torch row-wise",
            _ratios(linears(rows, ROW_SCHEME, large=False), ROW_PEERS),
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


def _least(rows: Sequence[Row], op: str, scheme: str, m: int) -> str:
    cases = pick(rows, op, scheme)
    found = [r["pct_of_ceiling"] for c in cases if (r := cases.ours(c)) and r["m"] >= m]
    return f"{min(found):.0f}–{max(found):.0f} %" if found else ""


def _tiny(rows: Sequence[Row]) -> str:
    cases = pick(rows, "quantize", "fp8_group128")
    found = [both(cases, c) for c in cases if cases.first(c)["m"] == 16]
    return "; ".join(f"{text} µs" for text in found)


def _silu_line(rows: Sequence[Row]) -> str:
    cases = pick(rows, "silu_mul_quantize")
    parts = [_least(rows, "silu_mul_quantize", "fp8_group128", 2048)]
    for case in cases:
        row = cases.ours(case)
        if row and (row["m"], row["n"]) == (2048, 14336):
            for name in ("vLLM fused", "vLLM two kernels", "torch silu*mul + vLLM quant"):
                us = cases.peer(case, name)
                parts.append(f"{us / row['us']:.1f}x {name}" if us else "")
    return "; ".join(part for part in parts if part)


def _rope_line(rows: Sequence[Row]) -> str:
    cases = pick(rows, "inverse_rope_quantize")
    least = _least(rows, "inverse_rope_quantize", "fp8_group128_pow2", 0)
    ratio, count = cases.ratio("one warp per head")
    return "; ".join(p for p in (least, f"{ratio:.2f}x one warp per head" if count else "") if p)


def _nvfp4_line(rows: Sequence[Row]) -> str:
    cases = pick(rows, "quantize", "nvfp4_static")
    parts = [_least(rows, "quantize", "nvfp4_static", 4096)]
    by = {(layout(c), r["n"], r["m"]): r["us"] for c in cases if (r := cases.ours(c))}
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
            parts.append(f"{on:.2f}x {SHORT.get(name, name)}{more}, {count} cases")
    return "; ".join(parts)


def _large_line(rows: Sequence[Row]) -> str:
    parts = []
    row_cases = linears(rows, ROW_SCHEME, large=True)
    for name in ("torch._scaled_mm fast", "vLLM cutlass_scaled_mm"):
        ratio, count = row_cases.ratio(name)
        if count:
            parts.append(f"row {100 * ratio:.0f} % of {SHORT[name]}")
    block = linears(rows, "fp8_block128", large=True)
    found = []
    for case in block:
        row, times = block.ours(case), [us for n in BLOCK_PEERS if (us := block.peer(case, n))]
        if row and times:
            found.append(min(times) / row["us"])
    if found:
        parts.append(
            f"block {100 * geomean(found):.0f} % of the best ({100 * min(found):.0f} % at least)"
        )
    return "; ".join(parts)


def _weight_line(rows: Sequence[Row]) -> str:
    cases = pick(rows, "linear", "nvfp4_w4a16")
    found = [
        us / r["us"] for c in cases if (r := cases.ours(c)) and (us := cases.peer(c, "torch bf16"))
    ]
    return f"{min(found):.2f}–{max(found):.2f}x, geomean {geomean(found):.2f}x" if found else ""


def filled(page: str, results: Path) -> str:
    """Give a page with the tables of the results that its marks name.

    Args:
        page: With ``<!-- table: NAME.json -->`` … ``<!-- end of table -->`` as often as one likes;
            ``brief:`` for `brief`.
        results: The folder of the results.

    Raises:
        ValueError: There is no mark.
    """

    return filled_by({"table": table, "brief": brief}, page, results)


def filled_by(
    kinds: Mapping[str, Callable[[Mapping[str, Any]], str]], page: str, results: Path
) -> str:
    """Give a page with the tables that its marks name, made by the kinds a mark may name.

    Raises:
        ValueError: There is no mark.
    """

    def block(match: re.Match[str]) -> str:
        data = json.loads((results / match["name"]).read_text(encoding="utf-8"))
        return f"{match['begin']}\n\n{kinds[match['kind']](data)}\n<!-- end of table -->"

    text, count = _BLOCK.subn(block, page)
    if not count:
        raise ValueError("the page has no <!-- table: NAME.json --> … <!-- end of table -->")
    return text


def main() -> None:
    file = Path(sys.argv[-1])
    if sys.argv[1] == "--page":
        page = filled(file.read_text(encoding="utf-8"), Path(__file__).parent / "results")
        file.write_text(page, encoding="utf-8")
    else:
        print(table(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
