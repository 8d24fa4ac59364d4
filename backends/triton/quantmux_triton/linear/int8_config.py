"""Tile sizes of the INT8 product: those of FP8, where the sum is 32 bits wide too."""

from __future__ import annotations

from quantmux_triton.linear.fp8_config import Tile, scaled_tiles


def int8_tiles(sm: int, *, tma: bool) -> tuple[Tile, ...]:
    """Give the candidates for a compute capability (80, 90, 120)."""
    return scaled_tiles(sm, tma=tma, exact=False)
