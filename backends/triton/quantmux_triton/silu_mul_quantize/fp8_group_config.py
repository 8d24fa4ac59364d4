"""Tiles of silu_mul_quantize's fp8_group: rows and groups of a program, and its warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import NO_END, tuned_ranges

STEM: Final = "silu_mul_quantize_fp8_group"

_INTERPRETED_ELEMENTS: Final = 1 << 15
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
    measured = tuned_ranges(device, STEM, kind_of(width, layout), n=width)
    if not measured:
        return ((NO_END, tile(width, by_column=layout != "row_major")),)
    by_rows = ((NO_END if end == NO_END else end // groups, Tile(**tile)) for end, tile in measured)
    return tuple((m_max, tile) for m_max, tile in by_rows if m_max)


def kind_of(width: int, layout: str) -> str:
    """Give the ``kind`` of measured rows: group width, and how scales lie.

    Their ``n`` is the group's width and their ``m`` the number of groups: what a row has of them
    makes no difference to a tile.
    """
    way = {"row_major": "by row", "packed_pow2": "packed"}.get(layout, "by column")
    return f"group{width} {way}"


def tile(width: int, *, by_column: bool) -> Tile:
    """Give the tile where nothing was measured: one that was good at every size on an H200.

    An element is two loads, so 8 of them a thread are 32 bytes under way, and a warp's lanes load
    side by side. A tile of two rows writes scales of a column two at a time.

    H200, 2026-11-21, CUDA graph past the L2, dependent launches, groups of 128, µs:

    ============ ========== ======= ======== ======== ========= ==========
    scales       tile       16x4096 128x4096 512x4096 2048x4096 2048x14336
    ============ ========== ======= ======== ======== ========= ==========
    row_major    1x4, 2 w.     1.09     2.18
    row_major    1x8, 4 w.     1.15     2.33     4.22     11.59
    row_major    1x16, 4 w.                                          35.76
    by column    2x4, 4 w.     1.07     2.31     4.09     11.76
    by column    4x4, 2 w.              3.29              11.94      35.83
    by column    1x4, 1 w.     1.19     2.47              20.74      70.10
    packed_pow2  2x4, 4 w.     1.15     2.57     4.42     12.47
    packed_pow2  4x4, 2 w.              3.94     5.08               36.76
    a copy of as many bytes    1.90     2.40     4.31     11.97      36.75
    ======================= ======= ======== ======== ========= ==========

    Args:
        width: Columns of a group.
        by_column: Scales lie column by column.
    """
    unit = max(1, 128 // width)  # groups that weigh as one of 128
    return Tile(2, 4 * unit, 4) if by_column else Tile(1, 8 * unit, 4)


def _interpreted(groups: int, width: int) -> Tile:
    whole = 1 << (max(groups, 4) - 1).bit_length()
    across = min(whole, max(4, _INTERPRETED_ELEMENTS // width // 8))
    return Tile(max(1, min(64, _INTERPRETED_ELEMENTS // (across * width))), across, 1)
