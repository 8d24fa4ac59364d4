"""Tiles of token: rows of one program, how much of a row at a time, and the warps for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

HELD: Final = 16384
"""Columns of the widest row that is held in registers: 64 in each of 256 threads."""

_BLOCK: Final = 8192
_INTERPRETED_ELEMENTS: Final = 1 << 16
_LEAST: Final = 128


@dataclass(frozen=True, slots=True)
class RowTile:
    """What one program takes.

    Attributes:
        rows: Rows, a power of two.
        block: Columns at a time, a power of two; a row is held where it covers one.
        num_warps: Warps that work on it.
    """

    rows: int
    block: int
    num_warps: int


def row_tile(padded_n: int) -> RowTile:
    """Give the tile for rows of ``padded_n`` columns."""
    block = max(_LEAST, 1 << (padded_n - 1).bit_length())
    if interpreting():
        rows = max(1, min(64, _INTERPRETED_ELEMENTS // block))
        return RowTile(rows, min(block, _INTERPRETED_ELEMENTS), 1)
    if block > HELD:
        return RowTile(1, _BLOCK, 8)
    rows = max(1, 2048 // block)
    return RowTile(rows, block, _warps(rows * block))


def _warps(elements: int) -> int:
    """Give the warps for the elements of a tile.

    H200, 2026-11-21, CUDA graph, cold L2, µs with 2, 4 and 8 warps: 4096x1536 6.02, 6.33, -;
    8192x4096 24.9, 24.7, -; 4096x7168 22.5, 21.9, 22.5.
    """
    return elements // 1024 if elements <= 4096 else max(4, elements // 2048)
