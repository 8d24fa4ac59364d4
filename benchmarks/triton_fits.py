"""What limits a kernel, read from its cases: a time that no byte explains, and a rate beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from triton_cases import ROW_SCHEME, Cases, Row, layout

_LEAST = 3
"""Cases of a line: two points lie on one always."""


class Line(NamedTuple):
    """``µs = fixed + bytes / rate`` through the cases of an op.

    Attributes:
        fixed_us: Launch, ramp and tail.
        gb_s: Bytes per time of what comes on top.
        worst: How far a case is off the line at most, as a part of its time.
        cases: How many.
    """

    fixed_us: float
    gb_s: float
    worst: float
    cases: int


def line(points: Sequence[tuple[float, float]]) -> Line | None:
    """Give the line of least squares, relative to the times, through (bytes, µs).

    None for fewer than three points, and where more bytes take no more time.
    """
    if len(points) < _LEAST:
        return None
    # each residual counts relative to its time: weights 1 / µs²
    weights = [1.0 / us**2 for _, us in points]
    total = sum(weights)
    x0 = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    y0 = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    over = sum(w * (x - x0) * (y - y0) for w, (x, y) in zip(weights, points, strict=True))
    under = sum(w * (x - x0) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    if under <= 0 or over <= 0:
        return None
    slope = over / under
    fixed = y0 - slope * x0
    worst = max(abs(fixed + slope * x - y) / y for x, y in points)
    return Line(fixed, 1e-3 / slope, worst, len(points))


def limits(rows: Sequence[Row], copy_gb_s: float) -> list[str]:
    """Give the lines of every op as Markdown, none for a run with too few cases."""
    found = []
    for name, pick in _OPS:
        cases = Cases(rows, pick)
        on = line([_point(r) for c in cases if (r := cases.ours(c))])
        off = line([_point(r) for c in cases if (r := cases.ours(c, off=True))])
        if on is None:
            continue
        fixed = f"{on.fixed_us:.1f}" + (f" ({off.fixed_us:.1f})" if off else "")
        share = f"{100 * on.gb_s / copy_gb_s:.0f}" if copy_gb_s else "–"
        found.append(
            f"| {name} | {on.cases} | {fixed} | {on.gb_s:.0f} | {share} | {100 * on.worst:.0f} |"
        )
    if not found:
        return []
    head = "| op | cases | fixed µs (PDL off) | then GB/s | % of copy | off the line, % at most |"
    return [head, "|---" * 6 + "|", *found]


def _point(row: Row) -> tuple[float, float]:
    return row["gb_s"] * row["us"] * 1e3, row["us"]


def _is(op: str, scheme: str, least_m: int, most_m: int, scales: str = "") -> Callable[[Row], bool]:
    def pick(row: Row) -> bool:
        fits = row["op"] == op and row["scheme"] == scheme and least_m <= row["m"] <= most_m
        return bool(fits) and scales in ("", layout(row["case"]))

    return pick


_END = 1 << 30
_ROPE = "inverse_rope_quantize"
_OPS: Sequence[tuple[str, Callable[[Row], bool]]] = (
    ("group quant, M ≥ 4096", _is("quantize", "fp8_group128", 4096, _END)),
    ("SiLU·mul + quant, M ≥ 2048", _is("silu_mul_quantize", "fp8_group128", 2048, _END)),
    ("inverse RoPE, fp32 scales", _is(_ROPE, "fp8_group128_pow2", 1, _END, "col_major_aligned4")),
    ("inverse RoPE, packed scales", _is(_ROPE, "fp8_group128_pow2", 1, _END, "packed_pow2")),
    ("NVFP4 quant, M ≥ 4096", _is("quantize", "nvfp4_static", 4096, _END)),
    ("FP8 channel/token linear, M = 1", _is("linear", ROW_SCHEME, 1, 1)),
    ("FP8 channel/token linear, M = 16", _is("linear", ROW_SCHEME, 16, 16)),
    ("FP8 channel/token linear, M = 64", _is("linear", ROW_SCHEME, 64, 64)),
    ("FP8 block linear, M = 1", _is("linear", "fp8_block128", 1, 1)),
    ("FP8 block linear, M = 16", _is("linear", "fp8_block128", 16, 16)),
    ("FP8 block linear, M = 64", _is("linear", "fp8_block128", 64, 64)),
    ("NVFP4 W4A16, M = 1", _is("linear", "nvfp4_w4a16", 1, 1)),
    ("NVFP4 W4A16, M = 16", _is("linear", "nvfp4_w4a16", 16, 16)),
)
