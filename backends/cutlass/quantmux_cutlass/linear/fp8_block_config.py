"""Which tile multiplies block-scaled FP8 for many tokens: measurements, and arithmetic over them.

Shapes that were measured take what was fastest. For others the time of a launch is expected to be
``start + waves · (steps · step + tile)``: a step is 128 of K of one tile, whose time was fitted for
every tile; a tile beyond its steps takes the time to fill the pipeline and to store. Where K is
divided over a cluster, exchanging the parts comes on top. Nothing is faster than its bytes from
memory. Of what was measured at M of 256 and more this picks tiles that are, in the geometric mean,
2 % slower than the best.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.fp8_block_measured import measured
from quantmux_cutlass.linear.fp8_block_tile import SHARE_W, SHARE_X, SPLIT_K, Tile
from quantmux_cutlass.linear.units_fp8_block import TILES as UNIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

SMS: Final = 132
"""Multiprocessors of an H200 and of an H100 SXM: for a device that does not say how many it has."""

_STEP: Final = 128
"""Columns of x and w that one step multiplies."""


_COLUMNS: Final = {
    64: (16, 32, 48, 64, 96, 128),
    128: (16, 32, 48, 64, 80, 96, 112, 128, 144, 160),
    256: (64, 96, 112, 128),
}
"""Rows of a tile → columns that the library has it with."""

_AHEAD: Final = (64, 96, 112, 128)
"""Columns of tiles of 128 rows that it also has with a second set of accumulators."""

_WIDTH: Final = 8
"""Tiles along N of a band that is walked along M."""


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the tile and the order of tiles for y [m, N]."""
    tile = best_tile(config.n, config.k, m, device.sm_count or SMS)
    return Choice(UNIT, tile.options(width=_WIDTH, along_m=False))


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of the tile that is chosen, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    sms = device.sm_count or SMS
    known = measured(config.n, config.k, m) if sms == SMS else None
    if known is not None:
        return known[1]
    return tile_us(best_tile(config.n, config.k, m, sms), config.n, config.k, m, sms)


@lru_cache(maxsize=4096)
def best_tile(n: int, k: int, m: int, sms: int) -> Tile:
    """Give the tile that was fastest for y [m, n], or else is expected to be."""
    known = measured(n, k, m) if sms == SMS else None
    if known is not None:
        return known[0]
    return min(candidates(n, k, m, sms), key=lambda tile: tile_us(tile, n, k, m, sms))


def tiles() -> Iterator[Tile]:
    """Give every tile that the library has, without a cluster."""
    for rows, widths in _COLUMNS.items():
        for columns in widths:
            yield Tile(rows, columns)
            if rows == 128 and columns in _AHEAD:
                yield Tile(rows, columns, ahead=True)


def candidates(n: int, k: int, m: int, sms: int) -> Iterator[Tile]:
    """Give the tiles that make sense for y [m, n]; the first is always among them."""
    yield Tile(128, 128)
    steps = parts(k, _STEP)
    for tile in tiles():
        rows, columns, ahead = tile.rows, tile.columns, tile.ahead
        if (rows == 256 and m <= 128) or (rows == 64 and m > 128):
            continue
        yield tile
        if m > rows:
            yield Tile(rows, columns, SHARE_W, 2, ahead)
        if n > columns:
            yield Tile(rows, columns, SHARE_X, 2, ahead)
        count = parts(m, rows) * parts(n, columns)
        for split in range(2, 9):
            if steps >= 2 * split and count * split <= sms:
                yield Tile(rows, columns, SPLIT_K, split, ahead)


_CLUSTERS: Final = {1: 132, 2: 66, 3: 39, 4: 30, 5: 22, 6: 17, 7: 15, 8: 15}
"""CTAs of a cluster → clusters that an H200 runs at a time (asked of the driver, 2026-11-21): each
lies within one of the groups that multiprocessors come in."""

_START_US: Final = 1.65
"""Launch, first loads, last stores."""

_TILE_US: Final = 1.53
"""A tile of 128 x 128 beyond its steps: the pipeline's end, stores."""

_EXCHANGE_US: Final = 3.6
"""Parts of K through the shared memory of a cluster."""

_MEMORY_BYTES_US: Final = 2.7e6
"""What small products reach of the memory's rate."""

_SHARED: Final = 0.99
"""A pair that loads in common is 1 to 3 % faster where nothing else differs."""

_STEP_US: Final[dict[tuple[int, int, bool], float]] = {
    (64, 16, False): 0.20,
    (64, 32, False): 0.254,
    (64, 48, False): 0.238,
    (64, 64, False): 0.206,
    (64, 96, False): 0.26,
    (64, 128, False): 0.369,
    (128, 16, False): 0.36,
    (128, 32, False): 0.36,
    (128, 48, False): 0.363,
    (128, 64, False): 0.365,
    (128, 64, True): 0.278,
    (128, 80, False): 0.445,
    (128, 96, False): 0.44,
    (128, 96, True): 0.371,
    (128, 112, False): 0.516,
    (128, 112, True): 0.463,
    (128, 128, False): 0.494,
    (128, 128, True): 0.442,
    (128, 144, False): 0.59,
    (128, 160, False): 0.581,
    (256, 64, False): 0.562,
    (256, 96, False): 0.758,
    (256, 112, False): 0.895,
    (256, 128, False): 0.823,
}
"""(rows, columns, ahead) → 128 of K of such a tile, µs. One H200, 2026-11-21; least squares over 56
shapes, 64 x 16 and the two narrowest of 128 rows by their neighbours."""


def tile_us(tile: Tile, n: int, k: int, m: int, sms: int) -> float:
    """Give the time to expect of a tile for y [m, n], µs."""
    down, across = parts(m, tile.rows), parts(n, tile.columns)
    if tile.sharing == SHARE_W:
        down = parts(down, 2)
    elif tile.sharing == SHARE_X:
        across = parts(across, 2)
    split = tile.cluster if tile.sharing == SPLIT_K else 1
    steps = parts(parts(k, _STEP), split)
    clusters = _CLUSTERS[tile.cluster] * sms // SMS or 1
    step = _STEP_US[tile.rows, tile.columns, tile.ahead]
    after = _TILE_US * tile.rows * tile.columns / 128**2
    us = parts(down * across, clusters) * (steps * step + after)
    if split > 1:
        us += _EXCHANGE_US
    elif tile.cluster > 1:
        us *= _SHARED
    # the last term prefers less work among tiles that memory makes equal
    return _START_US + max(us, (n * k + m * k + 2 * m * n) / _MEMORY_BYTES_US) + 0.02 * us


def parts(size: int, part: int) -> int:
    """Give how many parts of a size a length has, the last one perhaps smaller."""
    return -(-size // part)
