"""Tile sizes of the FP8 block product: each part of a tile lies in one row of weight blocks."""

from __future__ import annotations

from quantmux_triton.linear.fp8_config import Tile, scaled_tiles


def block_tiles(sm: int, *, aligned: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates; arguments as of `scaled_tiles`."""
    tiles = scaled_tiles(sm, aligned=aligned, exact=True, divided=divided)
    return tuple(tile for tile in tiles if tile.widest_part <= 128)
