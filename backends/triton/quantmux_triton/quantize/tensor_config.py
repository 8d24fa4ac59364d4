"""Tiles of tensor: rows and columns of one program, and how many programs look for the maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

PARTS: Final = 1024
"""Programs that look for the largest magnitude, at most; a power of two."""

_INTERPRETED_ELEMENTS: Final = 1 << 16
_ELEMENTS: Final = 2048
"""Elements of a tile. With a given scale 4096x7168 takes 21.9 µs by 2048 as by 4096, without one
38.6 against 40.1 and 16x7168 2.4 against 3.0 (H200, 2026-11-21, CUDA graph, cold L2)."""
_LEAST: Final = 128
_WIDEST: Final = 2048


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """What one program takes.

    Attributes:
        rows: Rows, a power of two.
        block: Columns, a power of two.
        num_warps: Warps that work on it.
    """

    rows: int
    block: int
    num_warps: int


def matrix_tile(padded_n: int) -> MatrixTile:
    """Give the tile for rows of ``padded_n`` columns."""
    if interpreting():
        block = max(_LEAST, min(1 << (padded_n - 1).bit_length(), 8192))
        return MatrixTile(max(1, min(64, _INTERPRETED_ELEMENTS // block)), block, 1)
    sizes = [1 << i for i in range(_LEAST.bit_length() - 1, _WIDEST.bit_length())]
    block = min(sizes, key=lambda size: (-(-padded_n // size) * size, -size))
    return MatrixTile(max(1, _ELEMENTS // block), block, 4)
