"""Tile sizes of the large-M products, and the time to expect of them: data and arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile

Form = Literal["divided", "tma", "pointer"]

BLOCK_K: Final = 128
"""Columns of x and W that one step multiplies: 128 bytes, the widest row that TMA swizzles."""

M_CLASSES: Final = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""M is rounded up to one of these (or to a multiple of the last) before a tile is chosen."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How one variant cuts up the product.

    Attributes:
        block_m: Rows of y a program makes.
        block_n: Columns of y a program makes.
        form: ``divided``: some warps load, the others multiply (Hopper; ``warps`` and ``parts`` do
            not count). ``tma``: loads and stores by TMA (sm90 and later). ``pointer``: anywhere.
        second: Columns of the second part of a divided tile, 0 for one part.
        parts: Column parts that are multiplied one after the other (1 or 2).
        subtiles: y lies in shared memory on its way out, whole (1) or half of it (2).
        warps: Warps of a program.
        stages: Steps of K that are loaded ahead.
        group_m: Tile rows that neighbouring programs walk down together.
        per_sm: Programs that fit on a multiprocessor.
        flatten: Loads of the next tile begin while this one is stored.
        registers: What a thread may have at most, 0 for as many as there are.
        rate: Share of the tensor cores' peak that a full wave of such tiles reaches.
    """

    block_m: int
    block_n: int
    form: Form = "tma"
    second: int = 0
    parts: int = 1
    subtiles: int = 2
    warps: int = 8
    stages: int = 3
    group_m: int = 8
    per_sm: int = 1
    flatten: bool = True
    registers: int = 0
    rate: float = 0.6

    @property
    def boxes(self) -> int:
        """Boxes of 64 by 64 in which each group of a divided tile stores y, taking turns."""
        return min(self.block_n // 64, 4) // self.subtiles or 1

    @property
    def widest_part(self) -> int:
        """Columns of the wider part."""
        if self.form == "divided":
            return max(self.block_n - self.second, self.second)
        return self.block_n // self.parts


_SHARED_BYTES: Final = {80: 166912, 90: 232448, 100: 232448, 103: 232448}
"""Shared memory that a program may have, by compute capability; elsewhere 101376."""

_PER_SM_RESERVED: Final = 1024
"""Of these, what the system keeps for every program of a multiprocessor."""


def shared_bytes(tile: Tile, out_bytes: int) -> int:
    """Give the shared memory of a TMA form: the stages, and y on its way out (barriers apart).

    Args:
        tile: The tile.
        out_bytes: Of an element of y.
    """
    stages = tile.stages * (tile.block_m + tile.block_n) * BLOCK_K
    if tile.form == "divided":
        return stages + 2 * tile.boxes * 64 * 64 * out_bytes
    return stages + tile.block_m * tile.block_n // tile.parts // tile.subtiles * out_bytes


def fitting(tile: Tile, sm: int, out_bytes: int) -> Tile:
    """Give the tile with as many of its stages as shared memory holds beside an fp32 y."""
    if tile.form == "pointer":
        return tile
    room = _SHARED_BYTES.get(sm, 101376) + _PER_SM_RESERVED
    while tile.stages > 2:
        needed = shared_bytes(tile, out_bytes) + 512 + _PER_SM_RESERVED
        if needed * tile.per_sm <= room:
            break
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def m_class(m: int) -> int:
    """Give the M that a tile is chosen for."""
    for bound in M_CLASSES:
        if m <= bound:
            return bound
    return -(-m // M_CLASSES[-1]) * M_CLASSES[-1]


def tile_microseconds(
    tile: Tile, *, m: int, n: int, k: int, device: DeviceProfile, peak_tflops: float
) -> float:
    """Give the time to expect, µs: waves of tiles, each bound by its products or by its loads."""
    sms = device.sm_count or 132
    per_wave = sms * tile.per_sm
    tiles = -(-m // tile.block_m) * -(-n // tile.block_n)
    waves = -(-tiles // per_wave)
    steps = -(-k // BLOCK_K)
    busy = min(tiles, per_wave)  # programs that share the machine in a wave
    flops = 2.0 * tile.block_m * tile.block_n * BLOCK_K
    multiply = flops * max(busy, sms) / (peak_tflops * 1e6 * tile.rate)
    copied = (tile.block_m + tile.block_n) * BLOCK_K
    # of what all programs load, W comes from memory once, the rest from the L2 cache at about
    # 1.5 times the copy rate
    load = copied * max(busy, sms // 2) / ((device.copy_gb_s or 4200.0) * 1.5e3)
    step = max(multiply, load, 0.08)
    floor = (n * k + m * k + 2.0 * m * n) / ((device.copy_gb_s or 4200.0) * 1e3)
    return max(waves * (steps * step + 0.8), floor) + 3.0


def best_tile(
    tiles: Iterable[Tile], *, m: int, n: int, k: int, device: DeviceProfile, peak_tflops: float
) -> Tile:
    """Give the tile of which the least time is expected; of equals the first."""
    rows = m_class(m)

    def microseconds(tile: Tile) -> float:
        return tile_microseconds(tile, m=rows, n=n, k=k, device=device, peak_tflops=peak_tflops)

    return min(tiles, key=microseconds)


_DIVIDED: Final = (
    Tile(128, 256, "divided", stages=4, rate=0.74),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, rate=0.70),
    Tile(128, 128, "divided", stages=6, subtiles=1, rate=0.60),
    Tile(128, 64, "divided", stages=8, subtiles=1, rate=0.45),
)
_DIVIDED_EXACT: Final = (
    Tile(128, 256, "divided", 128, stages=4, rate=0.66),
    Tile(128, 192, "divided", 64, stages=4, subtiles=1, rate=0.62),
    Tile(128, 128, "divided", stages=6, subtiles=1, rate=0.60),
    Tile(128, 64, "divided", stages=8, subtiles=1, rate=0.40),
)
_HOPPER: Final = (
    Tile(128, 256, stages=3, subtiles=1, rate=0.74),
    Tile(128, 128, warps=4, stages=3, per_sm=2, rate=0.68),
    Tile(128, 64, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.60),
    Tile(64, 128, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.58),
    Tile(64, 64, warps=4, stages=6, subtiles=1, per_sm=2, rate=0.40),
)
_HOPPER_EXACT: Final = (
    Tile(128, 128, parts=2, warps=4, stages=3, subtiles=1, per_sm=2, rate=0.50),
    Tile(128, 64, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.38),
    Tile(64, 128, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.38),
    Tile(64, 64, warps=4, stages=6, subtiles=1, per_sm=2, rate=0.25),
)
_BLACKWELL: Final = (
    Tile(128, 256, stages=3, warps=8, rate=0.6),
    Tile(128, 128, stages=4, warps=4, rate=0.5),
    Tile(128, 64, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.4),
    Tile(64, 64, warps=4, stages=4, subtiles=1, per_sm=2, rate=0.3),
)
_SMALL_SHARED: Final = (
    # at most 99 KiB of shared memory, and accumulators of mma.sync in registers
    Tile(128, 128, stages=2, subtiles=2, rate=0.5),
    Tile(64, 128, warps=4, stages=3, subtiles=1, rate=0.45),
    Tile(64, 64, warps=4, stages=3, subtiles=1, per_sm=2, rate=0.4),
)
_POINTER: Final = (
    Tile(128, 128, "pointer", stages=3, subtiles=1, rate=0.4),
    Tile(64, 128, "pointer", warps=4, stages=3, subtiles=1, rate=0.35),
    Tile(64, 64, "pointer", warps=4, stages=3, subtiles=1, per_sm=2, rate=0.3),
)
_POINTER_SMALL: Final = (
    Tile(128, 128, "pointer", stages=2, subtiles=1, rate=0.4),
    Tile(64, 64, "pointer", warps=4, stages=3, subtiles=1, per_sm=2, rate=0.3),
)
_BYTEWISE: Final = (Tile(64, 64, "pointer", warps=8, stages=1, subtiles=1, rate=0.02),)
"""Rows off 16 bytes are loaded byte by byte: larger tiles would not fit into registers."""


def scaled_tiles(sm: int, *, aligned: bool, exact: bool, divided: bool = True) -> tuple[Tile, ...]:
    """Give the candidates for one scale a tensor or a row, the preferred first.

    Args:
        sm: Compute capability, 90 or 120.
        aligned: Rows of x and W are multiples of 16 bytes.
        exact: Every 128 products are promoted.
        divided: Gluon, in which the form of that name is written, is here.
    """
    roomy = sm in (80, 90, 100, 103)  # at least 163 KiB of shared memory
    if not aligned:
        return _BYTEWISE
    if sm < 90:
        return _POINTER if roomy else _POINTER_SMALL
    if sm == 90:
        first = (_DIVIDED_EXACT if exact else _DIVIDED) if divided else ()
        return first + (_HOPPER_EXACT if exact else _HOPPER)
    if not roomy:
        return _SMALL_SHARED
    # promoted, 128 by 256 numbers take more shared memory than there is
    return tuple(tile for tile in _BLACKWELL if not exact or tile.block_n <= 128)
