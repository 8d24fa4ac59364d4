"""Tiles of silu_mul_quantize's fp8_group: rows and groups of a program, and its warps."""

from __future__ import annotations

from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.fp8_group_config import Tile, Tiles

_INTERPRETED_ELEMENTS: Final = 1 << 15
"""The interpreter pays for a program, not for its elements."""


def tiles(groups: int, width: int, *, by_column: bool) -> Tiles:
    """Give the tiles for rows of ``groups`` groups of ``width`` columns.

    An element is two loads, so a tile of half the elements that ``quantize`` takes has as many
    bytes under way.

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
    many = Tile(4, 4 * unit, 4) if by_column else Tile(1, 16 * unit, 4)
    return Tiles(few, many, limit=4096 * unit)


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
