"""Tile sizes of the FP8 block product: each part of a tile lies in one row of weight blocks."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_config import Tile, scaled_tiles

_HOPPER: Final = (
    Tile(128, 256, parts=2, stages=3, subtiles=1, rate=0.55),
    Tile(128, 128, stages=3, subtiles=1, per_sm=1, rate=0.5),
    Tile(128, 64, warps=4, stages=3, subtiles=1, per_sm=2, rate=0.40),
    Tile(64, 128, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.40),
    Tile(64, 64, warps=4, stages=6, subtiles=1, per_sm=2, rate=0.3),
)


def block_tiles(sm: int, *, tma: bool) -> tuple[Tile, ...]:
    """Give the candidates for a compute capability (90, 120)."""
    if tma and sm == 90:
        return _HOPPER
    return tuple(
        tile for tile in scaled_tiles(sm, tma=tma, exact=True) if tile.block_n // tile.parts <= 128
    )
