"""Tiles of silu_mul_quantize's tensor: rows and columns of one program, and its warps."""

from __future__ import annotations

from typing import Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.quantize.tensor_config import MatrixTile

PARTS: Final = 1024
"""Programs that look for the largest magnitude, at most; a power of two."""

_INTERPRETED_ELEMENTS: Final = 1 << 15
_ELEMENTS: Final = 2048
_LEAST: Final = 128
_WIDEST: Final = 2048


def matrix_tile(padded_n: int) -> MatrixTile:
    """Give the tile for rows of ``padded_n`` columns."""
    if interpreting():
        block = max(_LEAST, min(1 << (padded_n - 1).bit_length(), 8192))
        return MatrixTile(max(1, min(64, _INTERPRETED_ELEMENTS // block)), block, 1)
    sizes = [1 << i for i in range(_LEAST.bit_length() - 1, _WIDEST.bit_length())]
    block = min(sizes, key=lambda size: (-(-padded_n // size) * size, -size))
    return MatrixTile(max(1, _ELEMENTS // block), block, 4)
