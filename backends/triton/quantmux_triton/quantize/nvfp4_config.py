"""Tiles of nvfp4: how many rows and blocks one program takes, and with how many warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

AMAX_PROGRAMS: Final = 256
"""Most programs of the search for the largest magnitude, a power of two: two a multiprocessor.

Every program of the second launch reads what each of them found."""

AMAX_ELEMENTS: Final = 16384
"""Elements of a tile of that search."""

AMAX_WARPS: Final = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes.

    Attributes:
        rows: Rows, a power of two; 4 to 128 in 128x4.
        quads: Blocks of a row / 4, a power of two.
        num_warps: Warps that work on it.
    """

    rows: int
    quads: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of one config.

    Attributes:
        few: For little data: many small programs.
        many: For much data.
        limit: Blocks of all rows from which on ``many`` is taken.
    """

    few: Tile
    many: Tile
    limit: int


def tiles(groups: int, layout: str) -> Tiles:
    """Give the tiles for rows of ``groups`` blocks of 16 in a scale layout."""
    quads = -(-groups // 4)
    if interpreting():
        # the interpreter pays for a program, not for its elements
        across = min(_power_of_two(quads), 128)
        rows = min(128, max(8, 8192 // (4 * across)))
        tile = Tile(rows, across, 1)
        return Tiles(tile, tile, 0)
    if layout == "row_major":
        return Tiles(_tile(1, quads, 16, 1), _tile(1, quads, 32, 2), 1 << 18)
    return Tiles(_tile(8, quads, 2, 1), _tile(8, quads, 4, 2), 1 << 18)


def _tile(rows: int, quads: int, most: int, blocks: int) -> Tile:
    """Give a tile of at most ``most`` quads with some blocks a thread."""
    across = _across(quads, most)
    while rows * across < 8 * blocks:
        across *= 2
    return Tile(rows, across, rows * across // (8 * blocks))


def _across(quads: int, most: int) -> int:
    """Give the power of two that covers a row of quads with the least waste, the greatest such."""
    sizes = [1 << i for i in range(most.bit_length())]
    return min(sizes, key=lambda size: (-(-quads // size) * size, -size))


def _power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()
