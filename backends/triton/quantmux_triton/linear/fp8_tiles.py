"""The tiles that each form and GPU is offered, with what was measured of them."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_config import Tile, is_roomy

# times on an H200 (2026-11-21, Triton 3.6.0): CUDA graphs, cold L2, random data
_DIVIDED: Final = (
    Tile(128, 256, "divided", stages=3, subtiles=1, step_us=0.660, tile_us=3.4),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, step_us=0.502, tile_us=3.1),
    Tile(128, 128, "divided", stages=6, subtiles=1, step_us=0.350, tile_us=1.7),
    Tile(128, 64, "divided", stages=8, subtiles=1, step_us=0.230, tile_us=1.0),
)
_DIVIDED_BLOCK: Final = (
    Tile(128, 256, "divided", 128, stages=3, subtiles=1, step_us=0.824, tile_us=2.7),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, step_us=0.695, tile_us=1.9),
    Tile(128, 128, "divided", stages=6, subtiles=1, step_us=0.458, tile_us=1.3),
    Tile(128, 64, "divided", stages=8, subtiles=1, step_us=0.383, tile_us=0.0),
)
_DIVIDED_EXACT: Final = (
    Tile(128, 256, "divided", 128, stages=3, subtiles=1, step_us=0.765, tile_us=3.0),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, step_us=0.617, tile_us=1.3),
    Tile(128, 128, "divided", stages=6, subtiles=1, step_us=0.433, tile_us=1.5),
    Tile(128, 64, "divided", stages=8, subtiles=1, step_us=0.36, tile_us=0.0),
)
_DIVIDED_INT8: Final = (
    # Triton 3.6 fails on a part of 256 columns of int32
    Tile(128, 256, "divided", 128, stages=4, step_us=0.608, tile_us=3.7),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, step_us=0.467, tile_us=2.9),
    Tile(128, 128, "divided", stages=6, subtiles=1, step_us=0.327, tile_us=1.6),
    Tile(128, 64, "divided", stages=8, subtiles=1, step_us=0.220, tile_us=1.0),
)
_HOPPER: Final = (
    Tile(128, 128, warps=4, per_sm=2, step_us=0.763, tile_us=2.1),
    Tile(128, 64, warps=4, stages=4, subtiles=1, per_sm=2, step_us=0.489, tile_us=0.7),
)
_HOPPER_ALONE: Final = (
    Tile(128, 256, subtiles=1, group_m=16, step_us=0.72, tile_us=2.7),
    *_HOPPER,
    Tile(64, 64, warps=4, stages=6, subtiles=1, per_sm=2, step_us=0.298, tile_us=1.2),
)
_HOPPER_PROMOTED_ALONE: Final = (
    Tile(128, 128, parts=2, warps=4, subtiles=1, per_sm=2, step_us=1.0, tile_us=2.0),
    Tile(64, 128, warps=4, subtiles=1, per_sm=2, step_us=0.62, tile_us=1.0),
    Tile(64, 64, warps=4, stages=6, subtiles=1, per_sm=2, step_us=0.6, tile_us=0.0),
)
# from here on nothing was measured: shares of the peak that tiles of that size reach elsewhere
_BLACKWELL: Final = (
    Tile(128, 256, step_us=0.8),
    Tile(128, 128, warps=4, stages=4, step_us=0.45),
    Tile(128, 64, warps=4, stages=4, subtiles=1, per_sm=2, step_us=0.5),
    Tile(64, 64, warps=4, stages=4, subtiles=1, per_sm=2, step_us=0.35),
)
_SMALL_SHARED: Final = (
    # at most 99 KiB of shared memory, and accumulators of mma.sync in registers
    Tile(128, 128, stages=2, step_us=0.5),
    Tile(64, 128, warps=4, subtiles=1, step_us=0.3),
    Tile(64, 64, warps=4, subtiles=1, per_sm=2, step_us=0.35),
)
_POINTER: Final = (
    Tile(128, 128, "pointer", subtiles=1, step_us=0.6),
    Tile(64, 128, "pointer", warps=4, subtiles=1, step_us=0.36),
    Tile(64, 64, "pointer", warps=4, subtiles=1, per_sm=2, step_us=0.4),
)
_POINTER_SMALL: Final = (
    Tile(128, 128, "pointer", stages=2, subtiles=1, step_us=0.6),
    Tile(64, 64, "pointer", warps=4, subtiles=1, per_sm=2, step_us=0.4),
)
_BYTEWISE: Final = (Tile(64, 64, "pointer", stages=1, subtiles=1, step_us=6.0),)
"""Rows off 16 bytes are loaded byte by byte: larger tiles would not fit into registers."""


def scaled_tiles(sm: int, *, aligned: bool, exact: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates for one scale a tensor or a row, the preferred first.

    Args:
        sm: Compute capability, 90 or 120.
        aligned: Rows of x and W are multiples of 16 bytes.
        exact: Every 128 products are promoted.
        divided: Gluon, in which the form of that name is written, is here.
    """
    if sm != 90 or not aligned:
        return _elsewhere(sm, aligned=aligned, promoted=exact)
    if not divided:
        return _HOPPER_PROMOTED_ALONE if exact else _HOPPER_ALONE
    return _DIVIDED_EXACT if exact else _DIVIDED + _HOPPER


def block_tiles(sm: int, *, aligned: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates for block scales; each part of a tile lies in one row of blocks."""
    if sm == 90 and aligned and divided:
        return _DIVIDED_BLOCK
    tiles = scaled_tiles(sm, aligned=aligned, exact=True, divided=divided)
    return tuple(tile for tile in tiles if tile.widest_part <= 128)


def int8_tiles(sm: int, *, aligned: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates for INT8."""
    if sm == 90 and aligned and divided:
        return _DIVIDED_INT8 + _HOPPER
    return scaled_tiles(sm, aligned=aligned, exact=False, divided=divided)


def _elsewhere(sm: int, *, aligned: bool, promoted: bool) -> tuple[Tile, ...]:
    if not aligned:
        return _BYTEWISE
    if sm < 90:
        return _POINTER if is_roomy(sm) else _POINTER_SMALL
    if not is_roomy(sm):
        return _SMALL_SHARED
    # promoted, 128 by 256 numbers take more shared memory than there is
    return tuple(tile for tile in _BLACKWELL if not promoted or tile.block_n <= 128)
