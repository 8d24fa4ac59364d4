"""Tiles of fp8_group: how many rows and groups one program takes, and with how many warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import NO_END, tuned_ranges

STEM: Final = "fp8_group"

_INTERPRETED_ELEMENTS: Final = 1 << 16
"""The interpreter pays for a program, not for its elements."""

_FEW: Final = 4096
"""Groups below which many small programs are faster than few large ones: 16 rows of 7168 columns
are 896 groups and take 0.98 µs with the small tile against 1.21, 128 rows are 7168 groups and take
2.52 against 2.29 (H200, 2026-11-21, CUDA graph, cold L2)."""


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

    What was measured on the device for the nearest row width is taken first.

    Args:
        groups: Groups of a stored row.
        width: Columns of a group.
        layout: Scale layout.
        device: Name of the device's profile.
    """
    if interpreting():
        return ((NO_END, _interpreted(groups, width)),)
    measured = tuned_ranges(device, STEM, kind_of(width, layout), n=groups * width)
    if measured:
        return tuple((m_max, Tile(**config)) for m_max, config in measured)
    chosen = tiles(groups, width, by_column=layout != "row_major")
    return ((max(1, chosen.limit // groups), chosen.few), (NO_END, chosen.many))


def kind_of(width: int, layout: str) -> str:
    """Give the ``kind`` of measured rows: group width and scale layout."""
    return f"group{width} {layout}"


def tiles(groups: int, width: int, *, by_column: bool) -> Tiles:
    """Give tiles where nothing was measured.

    Args:
        groups: Groups of a stored row.
        width: Columns of a group.
        by_column: Scales lie column by column.
    """
    unit = max(1, 128 // width)  # groups that weigh as one of 128
    few = Tile(1, 4 * unit, 1)
    # by column, whole sectors of scales: a sector is 8 rows
    across = 4 * unit if by_column else _across(groups, 8 * unit)
    return Tiles(few, Tile(max(1, 32 * unit // across), across, 4), limit=_FEW * unit)


def _interpreted(groups: int, width: int) -> Tile:
    whole = 1 << (max(groups, 4) - 1).bit_length()
    across = min(whole, max(4, _INTERPRETED_ELEMENTS // width // 8))
    return Tile(max(1, min(64, _INTERPRETED_ELEMENTS // (across * width))), across, 1)


def _across(groups: int, most: int) -> int:
    """Give the power of two that covers a row of groups with the least waste, the greatest such."""
    sizes = [1 << i for i in range(2, most.bit_length())]
    return min(sizes, key=lambda size: (-(-groups // size) * size, -size))
