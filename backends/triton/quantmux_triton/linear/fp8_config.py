"""Tile sizes of the large-M products, and the time to expect of them: data and arithmetic only.

The time of a launch is ``waves · (steps · step_us + tile_us)``: every multiprocessor makes tile
after tile, each takes a time for every 128 of K and a time to be stored, and the last wave takes
as long as a full one. Both times are measured per tile on an H200 (least squares over 30 shapes,
M from 128 to 8192; the tile it chooses is 1 to 3 % slower than the best of all in the mean, 14 %
at most) and scaled by the peak rate of a multiprocessor elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from quantmux_triton.tuned import tuned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quantmux.capability.device import DeviceProfile

Form = Literal["divided", "tma", "pointer"]
_FORMS: Final[tuple[Form, ...]] = ("divided", "tma", "pointer")

BLOCK_K: Final = 128
"""Columns of x and W that one step multiplies: 128 bytes, the widest row that TMA swizzles."""

M_CLASSES: Final = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""M is rounded up to one of these (or to a multiple of the last) before a tile is chosen."""

_H200_SMS: Final = 132
_H200_TFLOPS: Final = 1979.0

_LAUNCH_US: Final = 2.0


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
        step_us: Time of one step in a full wave, µs on an H200.
        tile_us: Time of a tile beyond its steps, likewise.
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
    step_us: float = 1.0
    tile_us: float = 2.0

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


def is_roomy(sm: int) -> bool:
    """Tell whether programs of a compute capability may have 163 KiB of shared memory or more."""
    return sm in _SHARED_BYTES


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


def tile_microseconds(tile: Tile, *, m: int, n: int, k: int, device: DeviceProfile) -> float:
    """Give the time to expect of a launch, µs."""
    sms = device.sm_count or _H200_SMS
    tiles = -(-m // tile.block_m) * -(-n // tile.block_n)
    waves, rest = divmod(tiles, sms * tile.per_sm)
    last = 1.0
    if rest <= sms * (tile.per_sm - 1):
        last = 0.6  # programs that have a multiprocessor to themselves
    busy = waves + (last if rest else 0.0)
    steps = -(-k // BLOCK_K)
    peak = (device.fp8_tflops or _H200_TFLOPS) / sms
    slower = _H200_TFLOPS / _H200_SMS / peak
    return _LAUNCH_US + busy * (steps * tile.step_us + tile.tile_us) * slower


def best_tile(
    tiles: Iterable[Tile], *, kind: tuple[str, str], m: int, n: int, k: int, device: DeviceProfile
) -> Tile:
    """Give the tile that was measured to be the best for this layer, or is expected to be.

    Args:
        tiles: Candidates; of equals the first is taken.
        kind: The kernel's stem, and the kind of its rows of measured choices.
        m: Rows of x.
        n: Columns of y.
        k: Columns of x.
        device: Where it runs.
    """
    rows, candidates = m_class(m), tuple(tiles)
    row = tuned(device.name, *kind, n=n, k=k, m=rows)
    # the last wave of another N fills otherwise: a measured choice holds for its own layer only
    if row is not None and (row.get("n"), row.get("k")) == (n, k):
        for tile in candidates:
            if is_described(tile, row):
                return tile
    return min(
        candidates, key=lambda tile: tile_microseconds(tile, m=rows, n=n, k=k, device=device)
    )


_DESCRIBED: Final = ("block_m", "block_n", "second", "stages", "per_sm")


def description(tile: Tile, n: int, k: int) -> dict[str, int]:
    """Give a tile as a row of measured choices holds it."""
    values = {name: getattr(tile, name) for name in _DESCRIBED}
    return {"n": n, "k": k, "form": _FORMS.index(tile.form), **values}


def is_described(tile: Tile, row: Mapping[str, int]) -> bool:
    """Tell whether a row of measured choices means this tile."""
    return description(tile, row["n"], row["k"]) == dict(row)
