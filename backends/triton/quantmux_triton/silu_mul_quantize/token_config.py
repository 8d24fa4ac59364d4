"""Tiles of silu_mul_quantize's token: rows of a program, how much of a row at a time, and warps."""

from __future__ import annotations

from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.token_config import RowTile

HELD: Final = 16384
"""Columns of the widest product that is held in registers: 32 of 512 threads each."""

_BLOCK: Final = 4096
_INTERPRETED_ELEMENTS: Final = 1 << 15
_LEAST: Final = 128


def row_tile(padded_n: int) -> RowTile:
    """Give the tile for rows of ``padded_n`` columns."""
    block = max(_LEAST, 1 << (padded_n - 1).bit_length())
    if interpreting():
        rows = max(1, min(64, _INTERPRETED_ELEMENTS // block))
        return RowTile(rows, min(block, _INTERPRETED_ELEMENTS), 1)
    if block > HELD:
        return RowTile(1, _BLOCK, 8)
    return RowTile(max(1, 2048 // block), block, min(16, max(4, block // 1024)))
