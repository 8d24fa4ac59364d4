"""Which tile multiplies block-scaled FP8 for many tokens: arithmetic over measurements.

The time of a launch is ``start + waves · (steps · step + tile)``. A step is 128 of K of one tile: it
takes what its products take on the tensor cores, or what its bytes take from the L2, shared by all
CTAs that run; a tile beyond its steps takes the time to fill the pipeline and to store. Where K is
divided over a cluster, exchanging the parts comes on top. Nothing is faster than its bytes from
memory.
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

_SMS: Final = 132
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

_WIDTH: Final = 8
"""Tiles along N of a band that is walked along M."""


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the tile and the order of tiles for y [m, N]."""
    tile = best_tile(config.n, config.k, m, device.sm_count or _SMS)
    return Choice(UNIT, tile.options(width=_WIDTH, along_m=False))


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of the tile that is chosen, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    sms = device.sm_count or _SMS
    return tile_us(best_tile(config.n, config.k, m, sms), config.n, config.k, m, sms)


@lru_cache(maxsize=4096)
def best_tile(n: int, k: int, m: int, sms: int) -> Tile:
    """Give the tile with the least expected time for y [m, n]."""
    return min(candidates(n, k, m, sms), key=lambda tile: tile_us(tile, n, k, m, sms))


def candidates(n: int, k: int, m: int, sms: int) -> Iterator[Tile]:
    """Give the tiles that make sense for y [m, n]; the first is always among them."""
    yield Tile(128, 128)
    steps = -(-k // _STEP)
    for rows in _ROWS:
        if rows > 128 and m <= 128:
            continue
        for columns in _COLUMNS[rows]:
            yield Tile(rows, columns)
            if m > rows:
                yield Tile(rows, columns, SHARE_W, 2)
            if n > columns:
                yield Tile(rows, columns, SHARE_X, 2)
            tiles = -(-m // rows) * -(-n // columns)
            for parts in range(2, 9):
                if steps >= 2 * parts and tiles * parts <= 2 * sms:
                    yield Tile(rows, columns, SPLIT_K, parts)


_START_US: Final = 2.5
"""Launch, first loads, last stores."""

_TILE_US: Final = 0.5
"""A tile beyond its steps: the pipeline's end, stores."""

_EXCHANGE_US: Final = 1.0
"""Parts of K through the shared memory of a cluster."""

_MATH: Final = {64: 0.80, 128: 0.85, 256: 0.85}
"""Rows of a tile → share of the tensor cores' peak that its steps reach out of the L2."""

_PEAK: Final = 8192.0 * 1.755e3
"""FP8 operations of one multiprocessor, per µs, at the clock of a busy H200."""

_LEAST_STEP_US: Final = 0.06
"""A step of the smallest tile."""

_L2_BYTES_US: Final = 5.5e6
"""What the L2 gives all multiprocessors, bytes per µs …"""

_SM_BYTES_US: Final = 6.0e4
"""… and one of them."""

_MEMORY_BYTES_US: Final = 4.0e6


def tile_us(tile: Tile, n: int, k: int, m: int, sms: int) -> float:
    """Give the time to expect of a tile for y [m, n], µs."""
    down, across = -(-m // tile.rows), -(-n // tile.columns)
    parts = tile.cluster if tile.sharing == SPLIT_K else 1
    if tile.sharing == SHARE_W:
        down += down % 2
    elif tile.sharing == SHARE_X:
        across += across % 2
    blocks = down * across * parts
    steps = -(-(-(-k // _STEP)) // parts)
    rows = tile.rows / (2 if tile.sharing == SHARE_X else 1)
    columns = tile.columns / (2 if tile.sharing == SHARE_W else 1)
    bytes_of_step = (rows + columns) * _STEP
    step = max(
        2 * _STEP * tile.rows * tile.columns / (_PEAK * _MATH[tile.rows]),
        bytes_of_step * min(blocks, sms) / _L2_BYTES_US,
        bytes_of_step / _SM_BYTES_US,
        _LEAST_STEP_US,
    )
    after = _TILE_US + (_EXCHANGE_US if parts > 1 else 0.0)
    us = -(-blocks // sms) * (steps * step + after)
    return _START_US + max(us, (n * k + m * k + 2 * m * n) / _MEMORY_BYTES_US)
