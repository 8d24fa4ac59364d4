"""Best tiles of shapes that were measured, and their times.

One NVIDIA H200, 2026-11-21, cold L2, CUDA graphs, all contenders of a row interleaved; of tiles
within 1 % of each other, one without a cluster. The GPU was at its power limit (about 570 W) at
M = 1024 and beyond: torch's block product took 976 µs at 18432 x 7168, M = 4096, in the same run.
"""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.fp8_block_tile import SHARE_W, SHARE_X, SPLIT_K, Tile

_NEAR: Final = 1.19
"""How far an M may be from a measured one: half way, in the logarithm, between 1024 and 1448."""

_BEST: Final[dict[tuple[int, int], dict[int, tuple[Tile, float]]]] = {
    (576, 7168): {
        16: (Tile(64, 32, SPLIT_K, 4), 6.8),
        64: (Tile(64, 32, SPLIT_K, 4), 6.4),
        128: (Tile(128, 64, SPLIT_K, 8, ahead=True), 7.5),
        256: (Tile(128, 64, SPLIT_K, 3, ahead=True), 9.0),
        512: (Tile(128, 64, SPLIT_K, 3, ahead=True), 10.6),
        1024: (Tile(128, 96, SPLIT_K, 2, ahead=True), 17.4),
        2048: (Tile(128, 96, ahead=True), 24.9),
        4096: (Tile(128, 160), 35.8),
    },
    (2112, 7168): {
        16: (Tile(64, 96, SPLIT_K, 4), 10.5),
        64: (Tile(64, 32, SPLIT_K, 2), 9.2),
        128: (Tile(128, 64, SPLIT_K, 3, ahead=True), 9.8),
        256: (Tile(128, 64, SPLIT_K, 2, ahead=True), 12.0),
        512: (Tile(128, 64, SHARE_W, 2, ahead=True), 17.2),
        1024: (Tile(256, 64), 32.6),
        2048: (Tile(128, 96, ahead=True), 63.1),
        4096: (Tile(128, 128, ahead=True), 135.6),
    },
    (4096, 4096): {
        16: (Tile(64, 96, SPLIT_K, 2), 9.4),
        64: (Tile(64, 32), 8.8),
        128: (Tile(128, 64, SPLIT_K, 2, ahead=True), 9.1),
        256: (Tile(128, 64, ahead=True), 11.1),
        512: (Tile(128, 128, ahead=True), 17.0),
        1024: (Tile(256, 128, SHARE_W, 2), 28.8),
        2048: (Tile(256, 128), 57.9),
        4096: (Tile(256, 128), 124.8),
    },
    (4096, 7168): {
        16: (Tile(64, 96, SPLIT_K, 2), 13.9),
        64: (Tile(64, 64, SPLIT_K, 2), 11.9),
        128: (Tile(128, 64, SPLIT_K, 2, ahead=True), 12.5),
        256: (Tile(128, 64, SHARE_W, 2, ahead=True), 17.1),
        512: (Tile(128, 128, ahead=True), 28.4),
        1024: (Tile(256, 128), 58.6),
        2048: (Tile(256, 128), 104.4),
        4096: (Tile(256, 128), 219.8),
    },
    (7168, 2048): {
        16: (Tile(64, 64), 7.9),
        64: (Tile(64, 64), 7.5),
        128: (Tile(128, 64, ahead=True), 7.4),
        256: (Tile(128, 128, SHARE_W, 2, ahead=True), 10.1),
        512: (Tile(256, 128, SHARE_W, 2), 15.9),
        1024: (Tile(256, 128), 30.1),
        2048: (Tile(128, 128, ahead=True), 60.5),
        4096: (Tile(256, 128), 115.5),
    },
    (18432, 7168): {
        16: (Tile(64, 96), 45.5),
        64: (Tile(64, 96), 41.5),
        128: (Tile(128, 160), 39.4),
        256: (Tile(128, 96, ahead=True), 69.7),
        512: (Tile(128, 112, ahead=True), 143.7),
        1024: (Tile(128, 128, ahead=True), 266.4),
        2048: (Tile(256, 128, SHARE_X, 2), 500.4),
        4096: (Tile(256, 128, SHARE_X, 2), 971.8),
    },
    (24576, 1536): {
        16: (Tile(128, 96, ahead=True), 16.9),
        64: (Tile(128, 96, ahead=True), 15.0),
        128: (Tile(128, 96, ahead=True), 13.9),
        256: (Tile(128, 128, SHARE_W, 2, ahead=True), 21.0),
        512: (Tile(256, 128), 38.2),
        1024: (Tile(256, 128), 75.3),
        2048: (Tile(256, 128), 155.6),
        4096: (Tile(256, 128), 309.9),
    },
}
"""(N, K) → M → the tile, and its time in µs."""


def measured(n: int, k: int, m: int) -> tuple[Tile, float] | None:
    """Give the best tile and its time, µs, where y [m, n] is close to what was measured."""
    of_shape = _BEST.get((n, k))
    if of_shape is None:
        return None
    least = min(of_shape)
    if m <= least:
        return of_shape[least]
    nearest = min(of_shape, key=lambda known: max(known / m, m / known))
    near = max(nearest / m, m / nearest) <= _NEAR
    return of_shape[nearest] if near else None
