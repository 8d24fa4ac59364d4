"""Tile sizes of the INT8 product: those of FP8, where the sum is 32 bits wide too."""

from __future__ import annotations

from quantmux_triton.linear.fp8_config import Tile, scaled_tiles


def int8_tiles(sm: int, *, aligned: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates; arguments as of `scaled_tiles`."""
    tiles = scaled_tiles(sm, aligned=aligned, exact=False, divided=divided)
    # Triton 3.6 fails on a divided part of 256 columns of int32
    return tuple(t for t in tiles if t.form != "divided" or t.widest_part <= 128)
