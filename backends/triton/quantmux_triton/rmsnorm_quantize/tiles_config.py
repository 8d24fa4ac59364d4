"""Tiles of rmsnorm_quantize: rows of a program, columns at a time, and warps.

A thread holds 32 values, and a program one row, but for rows so short that they would not be two
warps' work. All that is done once a thread (addresses, the sums across threads, the root) then
weighs half as much as with 16 values.

H200, 2026-11-21, Triton 3.6, CUDA graph past the L2, dependent launches, fp8_group128 row_major, µs
with 8, 16 and 32 values a thread:

=========== ===== ===== ===== ==============================
shape           8    16    32 others
=========== ===== ===== ===== ==============================
16x7168      2.34  2.11  1.94 walked by 4096, 8 warps: 3.01
128x7168     3.26  3.01  2.94 two rows, 16 warps: 4.25
4096x7168   47.60 39.16 33.06 two rows, 16 warps: 43.09
4096x4096   22.37 17.94 16.83 two rows, 8 warps: 21.63
8192x2048   20.52 17.27 16.70 two rows, 4 warps: 19.79
2048x16384      - 54.05 36.95 walked by 4096, 8 warps: 40.11
=========== ===== ===== ===== ==============================

Columns of scales, and rows with one scale, choose alike (within 3 % where not). 64 values a thread,
blocks of a walked row other than 2048 and 4096 columns, and other GPUs were not tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

HELD: Final = 16384
"""Columns of the widest row that is held in registers: 32 of 512 threads each."""

_BLOCK: Final = 8192
"""Columns at a time of a row that is walked: 32 of 256 threads each."""

_VALUES: Final = 32
_ELEMENTS: Final = 2048
_LEAST: Final = 128
_LEAST_GROUPS: Final = 4
_INTERPRETED_ELEMENTS: Final = 1 << 15
"""The interpreter pays for a program, not for its elements."""


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


def row_tile(padded_n: int, group: int = 1) -> RowTile:
    """Give the tile for rows of ``padded_n`` columns.

    Args:
        padded_n: Stored row width.
        group: Columns of a group, a power of two; a block has four groups at least, as packed
            scales are written four at a time.
    """
    block = max(_LEAST, _LEAST_GROUPS * group, 1 << (padded_n - 1).bit_length())
    if interpreting():
        rows = max(1, min(64, _INTERPRETED_ELEMENTS // block))
        return RowTile(rows, min(block, _INTERPRETED_ELEMENTS), 1)
    if block > HELD:
        return RowTile(1, _BLOCK, _BLOCK // (32 * _VALUES))
    rows = max(1, _ELEMENTS // block)
    return RowTile(rows, block, max(1, rows * block // (32 * _VALUES)))
