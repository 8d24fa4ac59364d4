"""Tiles of fp8_group: how many rows and groups one program takes, and with how many warps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import NO_END, tuned_ranges

STEM: Final = "fp8_group"

_INTERPRETED_ELEMENTS: Final = 1 << 16
"""The interpreter pays for a program, not for its elements."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes.

    Attributes:
        rows: Rows, a power of two.
        groups: Groups of a row, a power of two; at least 4 for packed scales.
        num_warps: Warps that work on it.
    """

    rows: int
    groups: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """A tile for little and one for much data.

    Attributes:
        few: For little data: many small programs, to have every multiprocessor at work.
        many: For much data: bytes in flight and whole sectors.
        limit: Groups of all rows from which on ``many`` is taken.
    """

    few: Tile
    many: Tile
    limit: int


def tile_ranges(groups: int, width: int, layout: str, device: str) -> tuple[tuple[int, Tile], ...]:
    """Give the tiles as (last M, tile), ascending; the last has no end.

    What was measured on the device is taken first.

    Args:
        groups: Groups of a stored row.
        width: Columns of a group.
        layout: Scale layout.
        device: Name of the device's profile.
    """
    if interpreting():
        return ((NO_END, _interpreted(groups, width)),)
    chosen = tuned_ranges(device, STEM, kind_of(width, layout), n=width) or _computed(
        groups, width, layout
    )
    by_rows = ((NO_END if end == NO_END else end // groups, Tile(**tile)) for end, tile in chosen)
    return tuple((m_max, tile) for m_max, tile in by_rows if m_max)


def kind_of(width: int, layout: str) -> str:
    """Give the ``kind`` of measured rows: group width, and how scales lie.

    Their ``n`` is the group's width and their ``m`` the number of groups: what a row has of them
    makes no difference to a tile.
    """
    way = {"row_major": "by row", "packed_pow2": "packed"}.get(layout, "by column")
    return f"group{width} {way}"


def tiles(groups: int, width: int, layout: str) -> Tiles:
    """Give tiles where nothing was measured: those that were best on an H200.

    H200, 2026-11-21, CUDA graph, cold L2, dependent launches, 7168 columns in groups of 128, µs:

    ============ ========== ====== ====== ====== ====== =======
    scales       tile       M = 16    128    512   4096  16384*
    ============ ========== ====== ====== ====== ====== =======
    row_major    1x8, 2 w.    0.97   2.10   4.98   35.4   158.5
    row_major    2x8, 4 w.    0.95   2.18   4.04   22.1    95.1
    row_major    4x8, 4 w.    1.21   2.29   4.62   22.2    94.7
    by column    4x4, 4 w.    0.95   2.22   4.08   22.4    96.1
    by column    16x4, 8 w.   1.31   2.25   4.42   22.1    94.2
    packed       2x4, 1 w.    1.00   2.04   4.74   35.5       -
    packed       8x4, 4 w.    1.15   2.23   4.33   21.8    93.5
    ============ ========== ====== ====== ====== ====== =======

    (* 16384 rows of 8192 columns.)

    Args:
        groups: Groups of a stored row.
        width: Columns of a group.
        layout: Scale layout.
    """
    unit = max(1, 128 // width)  # groups that weigh as one of 128
    if layout == "row_major":
        across = _across(groups, 8 * unit)
        rows = 8 * unit // across
        few, many = Tile(rows, across, 2), Tile(2 * rows, across, 4)
        return Tiles(few, many, limit=20_000 * unit)
    across = 4 * unit
    if layout == "packed_pow2":
        return Tiles(Tile(2, across, 1), Tile(8, across, 4), limit=20_000 * unit)
    return Tiles(Tile(4, across, 4), Tile(16, across, 8), limit=160_000 * unit)


def _computed(
    groups: int, width: int, layout: str
) -> tuple[tuple[int, dict[str, int]], tuple[int, dict[str, int]]]:
    chosen = tiles(groups, width, layout)
    return ((max(groups, chosen.limit), asdict(chosen.few)), (NO_END, asdict(chosen.many)))


def _interpreted(groups: int, width: int) -> Tile:
    whole = 1 << (max(groups, 4) - 1).bit_length()
    across = min(whole, max(4, _INTERPRETED_ELEMENTS // width // 8))
    return Tile(max(1, min(64, _INTERPRETED_ELEMENTS // (across * width))), across, 1)


def _across(groups: int, most: int) -> int:
    """Give the power of two that covers a row of groups with the least waste, the greatest such."""
    sizes = [1 << i for i in range(2, most.bit_length())]
    return min(sizes, key=lambda size: (-(-groups // size) * size, -size))
