"""Tiles of fp8_group: how many rows and groups one program takes, and with how many warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

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
    """The tiles of one config.

    Attributes:
        few: For little data: many small programs, to have every multiprocessor at work.
        many: For much data: bytes in flight and whole sectors.
        limit: Groups of all rows from which on ``many`` is taken.
    """

    few: Tile
    many: Tile
    limit: int


def tiles(groups: int, width: int, *, by_column: bool) -> Tiles:
    """Give the tiles for rows of ``groups`` groups of ``width`` columns.

    Args:
        groups: Groups of a stored row.
        width: Columns of a group.
        by_column: Scales lie column by column.
    """
    if interpreting():
        across = min(_power_of_two(max(groups, 4)), max(4, _INTERPRETED_ELEMENTS // width // 8))
        rows = max(1, min(64, _INTERPRETED_ELEMENTS // (across * width)))
        tile = Tile(rows, across, 1)
        return Tiles(tile, tile, 0)
    unit = max(1, 128 // width)  # groups that weigh as one of 128
    few = Tile(1, 4 * unit, 1)
    if by_column:
        many = Tile(8, 4 * unit, 4)
    else:
        across = _across(groups, 32 * unit)
        many = Tile(max(1, 32 * unit // across), across, 4)
    return Tiles(few, many, limit=8192 * unit)


def _across(groups: int, most: int) -> int:
    """Give the power of two that covers a row of groups with the least waste, the greatest such."""
    sizes = [1 << i for i in range(2, most.bit_length())]
    return min(sizes, key=lambda size: (-(-groups // size) * size, -size))


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
