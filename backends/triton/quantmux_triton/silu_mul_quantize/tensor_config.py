"""Tiles of silu_mul_quantize's tensor: rows and columns of one program, and its warps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_triton.interpreter import interpreting

PARTS: Final = 1024
"""Programs that look for the largest magnitude, at most; a power of two."""

_INTERPRETED_ELEMENTS: Final = 1 << 15
_ELEMENTS: Final = 2048
"""With 8 warps 8 a thread: 2.38 µs for 128x4096, 11.88 for 2048x4096, 36.58 for 2048x14336 (H200,
2026-11-21, CUDA graph past the L2, given scale)."""

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
    return MatrixTile(max(1, _ELEMENTS // block), block, 8)
