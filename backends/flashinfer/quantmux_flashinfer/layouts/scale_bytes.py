"""Scales of NVFP4: e4m3 in tensors of two dimensions (ours) against bytes.

FlashInfer's quantizers give scales as uint8, of two dimensions or one; its GEMMs take them so.
Both are the same bytes in the same order, in every layout: row-major, 128x4 and 8x4. Nothing here
copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantmux.config.layouts import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

TILE_ROWS: Mapping[str, int] = {"row_major": 1, "swizzled_128x4": 128, "swizzled_8x4": 8}
"""Rows of scales that a layout stores whole tiles of."""

TILE_COLUMNS = 4
"""Columns of scales in a tile."""


def as_bytes(scales: torch.Tensor) -> torch.Tensor:
    """Give e4m3 scales as uint8, the same memory."""
    return scales.view(torch.uint8)


def as_e4m3(scales: torch.Tensor) -> torch.Tensor:
    """Give uint8 scales as e4m3, the same memory."""
    return scales.view(torch.float8_e4m3fn)


def stored_shape(layout: str, m: int, padded_n: int) -> tuple[int, int]:
    """Give rows and columns of the scales of x [m, padded_n] as a layout stores them."""
    rows, columns = TILE_ROWS[layout], padded_n // 16
    if layout != "row_major":
        columns = round_up(columns, TILE_COLUMNS)
    return round_up(m, rows), columns


def flat(scales: torch.Tensor) -> torch.Tensor:
    """Give scales [R, C] as one row [R · C] in the order of memory, the same memory.

    Raises:
        RuntimeError: They do not lie in one piece.
    """
    return scales.view(-1)


def unflat(scales: torch.Tensor, layout: str, m: int, padded_n: int) -> torch.Tensor:
    """Give one row of scales as the [R, C] of a layout, the same memory.

    Raises:
        RuntimeError: There are more or fewer than the layout stores.
    """
    return scales.view(stored_shape(layout, m, padded_n))
