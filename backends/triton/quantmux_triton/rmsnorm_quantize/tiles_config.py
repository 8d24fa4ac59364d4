"""Tiles of rmsnorm_quantize: rows of a program, columns at a time, and warps.

Chosen by counting, not measured: a thread holds 16 values (32 bytes of bf16 under way, one store of
16 bytes of codes), so that a row of 7168 is 512 threads and four programs fill a multiprocessor. A
program of short rows takes several, until it has 2048 values. What the choice does to other widths
and GPUs has not been tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

HELD: Final = 16384
"""Columns of the widest row that is held in registers: 16 of 1024 threads each."""

_BLOCK: Final = 8192
"""Columns at a time of a row that is walked: 16 of 512 threads each."""

_VALUES: Final = 16
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
