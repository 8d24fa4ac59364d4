"""What stands under the table of `silu_mul`: what bytes alone would give, and what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.bench.seeds.ratios import geomean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage

_SCALES: Final = 4.0 / 128.0
_READ: Final = 4.0
_CODE: Final = 1.0
_PRODUCT: Final = 2.0

FUSED_BYTES: Final = _READ + _CODE + _SCALES
"""Bytes that one column of the product costs in one kernel: gate, up, code, its part of a scale."""

TWO_BYTES: Final = FUSED_BYTES + 2 * _PRODUCT
"""In two kernels: the product is written and read."""

PAIR_BYTES: Final = TWO_BYTES + 2 * _PRODUCT
"""In torch's pair and a quantizer: silu(gate) is, too."""

_STRIDED: Final = "at::native::elementwise_kernel"
"""The other is ``at::native::vectorized_elementwise_kernel``."""

_UNVECTORIZED: Final = (
    "before runs torch's elementwise kernel for strided rows, without vector loads: where memory "
    "bounds, more is gained against it than the bytes say"
)

_DEPENDENT: Final = (
    "ours, as every quantizer of quantmux, is launched with programmatic dependent launch where "
    "the GPU has it (sm_90 on); the seed's kernel and those of the product in before are not: at "
    "few rows that is a part of what is gained"
)

_FEW: Final = 16
_MANY: Final = (2048, 14336)


def remarks(rows: Sequence[SeedRow], stage: Stage) -> list[str]:
    """Give the lines; where figures mean nothing, only what is not measured."""
    bytes_line = (
        f"bytes per element of the product: {PAIR_BYTES:.2f} in torch's three kernels, "
        f"{TWO_BYTES:.2f} in two, {FUSED_BYTES:.2f} fused: {PAIR_BYTES / FUSED_BYTES:.1f}x and "
        f"{TWO_BYTES / FUSED_BYTES:.1f}x where memory bounds"
    )
    if not stage.is_cuda:
        return [bytes_line]
    found = [bytes_line, _DEPENDENT, *without_vectors(rows)]
    for title, pick in (
        (f"{_MANY[0]}×{_MANY[1]} (memory bounds)", _is_many),
        (f"M = {_FEW} (launches bound), in a graph", _is_few),
    ):
        found += _line(title, [r for r in rows if pick(r)], lambda row: row.us)
    found += _line("host time of an eager call", rows, lambda row: row.host_us)
    return found


def without_vectors(rows: Sequence[SeedRow]) -> list[str]:
    """Say that torch ran kernels in before that are further from their bytes than others, if so."""
    names = {name for row in rows if row.kind == "before" for name in row.launched}
    if not any(_STRIDED in name for name in names):
        return []
    return [_UNVECTORIZED]


def _line(
    title: str, rows: Sequence[SeedRow], value: Callable[[SeedRow], float | None]
) -> list[str]:
    """Say how the main variant of ours compares with every other, over the cases of both."""
    by_case: dict[str, dict[str, SeedRow]] = {}
    for row in rows:
        if row.status == "ok" and row.kind in ("before", "seed", "ours"):
            by_case.setdefault(row.case, {})[row.kernel] = row
    ratios: dict[str, list[float]] = {}
    for found in by_case.values():
        ours = next((r for r in found.values() if r.kind == "ours" and r.is_main), None)
        base = value(ours) if ours is not None else None
        if not base:
            continue
        for name, row in found.items():
            us = value(row)
            if us and row.kind != "ours":
                ratios.setdefault(name, []).append(us / base)
    parts = [f"{geomean(r) or 0.0:.2f}x {name} ({len(r)})" for name, r in ratios.items()]
    return [f"{title}, others over ours, geomean (cases): {', '.join(parts)}"] if parts else []


def _is_many(row: SeedRow) -> bool:
    return (row.facts.get("m"), row.facts.get("n")) == _MANY


def _is_few(row: SeedRow) -> bool:
    return row.facts.get("m") == _FEW
