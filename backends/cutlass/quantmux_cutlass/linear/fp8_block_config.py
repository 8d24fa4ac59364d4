"""Which tile multiplies block-scaled FP8 for many tokens: arithmetic over measurements.

The time of a launch is ``start + waves · (steps · step + tile)``. A step is 128 of K of one tile.
It takes the longest of three: its products on the tensor cores; its bytes on their way to the
multiprocessor; one math group's own share of the products and promoting it. A tile beyond its steps
takes the time to fill the pipeline and to store. Where K is divided over a cluster, exchanging the
parts comes on top. Nothing is faster than its bytes from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_fp8_block import TILES as UNIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

ALONE: Final = 0
SHARE_W: Final = 1
SHARE_X: Final = 2
SPLIT_K: Final = 3
"""What a cluster does: ``Sharing`` of ``csrc/linear/block_order.cuh``."""

SMS: Final = 132
"""Multiprocessors of an H200 and of an H100 SXM: for a device that does not say how many it has."""

_STEP: Final = 128
"""Columns of x and w that one step multiplies."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What a CTA computes, and what it has in common with its cluster.

    Attributes:
        rows: Rows of y: 64, 128 or 256.
        columns: Columns of y.
        sharing: `ALONE`, `SHARE_W`, `SHARE_X` or `SPLIT_K`.
        cluster: CTAs of a cluster.
        ahead: The next K block is started before the last one is promoted.
    """

    rows: int
    columns: int
    sharing: int = ALONE
    cluster: int = 1
    ahead: bool = False

    def options(self, *, width: int, along_m: bool) -> tuple[int, ...]:
        """Give what ``qm_plan`` is told: the tile, and the bands that tiles are taken in."""
        rows = _ROWS.index(self.rows)
        return (
            self.columns,
            rows,
            self.sharing,
            self.cluster,
            width,
            int(along_m),
            int(self.ahead),
        )


_ROWS: Final = (64, 128, 256)
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
    return tile_us(best_tile(config.n, config.k, m, sms), config.n, config.k, m, sms)


@lru_cache(maxsize=4096)
def best_tile(n: int, k: int, m: int, sms: int) -> Tile:
    """Give the tile with the least expected time for y [m, n]."""
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
    for rows in _ROWS:
        if rows > 128 and m <= 128:
            continue
        for columns in _COLUMNS[rows]:
            yield Tile(rows, columns)
            if m > rows:
                yield Tile(rows, columns, SHARE_W, 2)
            if n > columns:
                yield Tile(rows, columns, SHARE_X, 2)
            count = parts(m, rows) * parts(n, columns)
            for split in range(2, 9):
                if steps >= 2 * split and count * split <= 2 * sms:
                    yield Tile(rows, columns, SPLIT_K, split)


_CLUSTERS: Final = {1: 132, 2: 66, 3: 39, 4: 30, 5: 22, 6: 17, 7: 15, 8: 15}
"""CTAs of a cluster → clusters that an H200 runs at a time (asked of the driver, 2026-11-21): each
lies within one of the groups that multiprocessors come in."""

_START_US: Final = 3.0
"""Launch, first loads, last stores."""

_TILE_US: Final = 0.6
"""A tile beyond its steps: the pipeline's end, stores."""

_EXCHANGE_US: Final = 1.3
"""Parts of K through the shared memory of a cluster."""

_PRODUCTS_US: Final = 4096 * 1.45e3
"""Products of one multiprocessor, per µs, that a step reaches on a busy H200 …"""

_TWO_SCALES: Final = 1.08
"""… and how much longer it takes where a tile may lie over two of w's scales."""

_PROMOTE_US: Final = 0.17
"""What a math group needs beside its products for 64 rows of a step."""

_BYTES_US: Final = 8.2e4
"""Bytes that reach the shared memory of one multiprocessor, per µs."""

_MEMORY_BYTES_US: Final = 4.0e6


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
    after = _TILE_US + (_EXCHANGE_US if split > 1 else 0.0)
    us = parts(down * across, clusters) * (steps * _step_us(tile) + after)
    # the last term prefers less work among tiles that memory makes equal
    return _START_US + max(us, (n * k + m * k + 2 * m * n) / _MEMORY_BYTES_US) + 0.02 * us


def _step_us(tile: Tile) -> float:
    """Give the time of 128 of K of one tile, µs."""
    products = tile.rows * tile.columns * _STEP / _PRODUCTS_US
    if 128 % tile.columns:
        products *= _TWO_SCALES
    # a group's own share: half of the rows, or with 64 rows every other step
    alone = products / 2 + _PROMOTE_US * (tile.rows / 128)
    return max(products, alone, (tile.rows + tile.columns) * _STEP / _BYTES_US)


def parts(size: int, part: int) -> int:
    """Give how many parts of a size a length has, the last one perhaps smaller."""
    return -(-size // part)
