"""Tiles of silu_mul_quantize's token: rows of a program, how much of a row at a time, and warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

HELD: Final = 16384
"""Columns of the widest product that is held in registers: 16 of 1024 threads each.

Held and with as many warps as there are, a row of 14336 takes 2048 rows 40.98 µs, with half the
warps 44.97, walked in blocks of 2048 55.30 (H200, 2026-11-21, CUDA graph past the L2). 4096 columns
are best with 16 warps: 12.52 against 13.14 with 8 and 16.78 with 32."""

_BLOCK: Final = 2048
_INTERPRETED_ELEMENTS: Final = 1 << 15
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
        return RowTile(1, _BLOCK, 16)
    return RowTile(max(1, 2048 // block), block, min(32, max(8, block // 256)))
