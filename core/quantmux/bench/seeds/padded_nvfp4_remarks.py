"""What stands under the table of `padded_nvfp4`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.bench.seeds.padded_nvfp4_shapes import SEED_WIDTH, SHARDS
from quantmux.bench.seeds.padded_nvfp4_ways import NOT_BY_SEED, ZEROED
from quantmux.bench.seeds.ratios import geomean
from quantmux.bench.seeds.silu_mul_remarks import without_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantmux.bench.seeds.rows import SeedRow
    from quantmux.bench.seeds.stage import Stage

_CODE: Final = 0.5
_SCALE: Final = 1.0 / 16.0
_READ: Final = 2.0

QUANTIZE_BYTES: Final = _READ + _CODE + _SCALE
"""Bytes that one element costs: read, its half of a byte, its part of a scale."""

PAD_BYTES: Final = 3 * _CODE
"""What padding adds: the new rows are filled with zeros, the codes are read and written again."""

_FEW: Final = 128
_MANY: Final = 8192


def remarks(rows: Sequence[SeedRow], stage: Stage) -> list[str]:
    """Give the lines; where figures mean nothing, only what is not measured."""
    whole = QUANTIZE_BYTES + PAD_BYTES
    by_bytes = (
        f"bytes per element: {whole:.2f} with a pad afterwards, {QUANTIZE_BYTES:.2f} without: "
        f"{whole / QUANTIZE_BYTES:.1f}x where memory bounds and nothing stays in a cache"
    )
    found = [
        "all three run quantmux's own kernels: what differs is the padding",
        by_bytes,
        *without_vectors(rows),
        "looked at, and no multiple of 32: "
        + "; ".join(f"{s} → {s.padded_n}" for s in SHARDS if s.needs_padding),
        "looked at, and nothing to pad: " + "; ".join(str(s) for s in SHARDS if not _is_odd(s.n)),
    ]
    if not stage.is_cuda:
        return found
    found += _by_layout(rows)
    for title, pick in (
        (f"n = {SEED_WIDTH}, M ≤ {_FEW}", lambda m: m <= _FEW),
        (f"n = {SEED_WIDTH}, M = {_MANY}", lambda m: m == _MANY),
    ):
        found += _line(title, [r for r in rows if r.facts.get("n") == SEED_WIDTH], pick)
    return found


def _line(title: str, rows: Sequence[SeedRow], pick: Callable[[int], bool]) -> list[str]:
    by_layout: dict[str, list[float | None]] = {}
    for row in rows:
        if row.kind == "ours" and row.is_main and pick(int(row.facts["m"])):
            by_layout.setdefault(str(row.facts["layout"]), []).append(row.before_ratio)
    parts = [
        f"{mean:.2f}x {layout}"
        for layout, ratios in by_layout.items()
        if (mean := geomean(ratios)) is not None
    ]
    return [f"{title}, before over ours, geomean: {', '.join(parts)}"] if parts else []


def _by_layout(rows: Sequence[SeedRow]) -> list[str]:
    """Give a line per layout, the pull request's first: it is what the means above are of."""
    found: dict[str, list[SeedRow]] = {ZEROED: []}
    for row in rows:
        if row.kind == "ours" and row.is_main:
            found.setdefault(str(row.facts["layout"]), []).append(row)
    lines = []
    for layout, some in found.items():
        before = geomean(row.before_ratio for row in some)
        if before is None:
            continue
        seed = geomean(row.ratio for row in some)
        text = f"{layout}, {len(some)} cases, geomean: before/ours {before:.2f}"
        text += f", seed/ours {seed:.2f}" if seed is not None else ""
        lines.append(_also(layout) + text + _ABOUT.get(layout, ""))
    return lines


def _also(layout: str) -> str:
    return "" if layout == ZEROED else "also: "


_ABOUT: Final = {
    ZEROED: ": the layout of the pull request, and what the means of this experiment are of",
    "row_major": ": the seed is the same call as ours",
    NOT_BY_SEED: ": the seed refuses it",
}


def _is_odd(n: int) -> bool:
    return n % 32 != 0
