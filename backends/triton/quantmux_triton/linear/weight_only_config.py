"""How the linears with widened weights are cut up: as measured, or else as computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux_triton.interpreter import interpreting
from quantmux_triton.tuned import tuned_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.capability.device import DeviceProfile

M_CLASSES: Final = (16, 32, 64, 128)
"""Tokens of a tile; more than the last are several tiles."""

SLAB: Final = 256
"""Columns of K between two loads."""

_FIRST_WITH_PDL: Final = 90
_FIRST_WITH_TENSOR_MEMORY: Final = 100
_LAST_WITH_TENSOR_MEMORY: Final = 110
_SMS: Final = 132
_SMEM_KIB: Final = 99.0
"""What every GPU from sm80 on has for one program."""

_MOST_TOKENS: Final = 64
"""Of a tile. With 128 a thread's sums leave no room for the weights it decodes (H200, 2026-11-21,
28672x4096, M = 256: 175 µs against 146 µs with 64)."""

_COST_OF_SHARES: Final = {16: 6, 32: 14, 64: 40}
"""What shares cost an SM, in the time of a slab and tile, by tokens of a tile (H200, 2026-11-21:
28672x4096 and 57344x8192, M = 16, 32 and 64)."""

_COST_BESIDE_WHOLE: Final = 5
"""Likewise, of one share an SM beside whole tiles, for up to 16 tokens."""

_ALONE: Final = 1.4
"""Time of a slab in a program that has an SM to itself, of one that has half of it (as before)."""

_LEAST_SLABS: Final = 4
"""Slabs of a share: fewer do not pay for its start and for the sum of shares."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One way to cut up a product.

    Attributes:
        block_n: Channels of a tile.
        block_m: Tokens of a tile.
        warps: Warps of a program.
        stages: Slabs that are on their way at once, the one being used included.
        joined: One product of 256 columns a slab, else one for each loaded part of it.
        shares: Programs for each tile of tokens, which share work evenly; 0 for one a tile.
        whole: Tiles that are not shared out, and have a program each beside the shares.
        registers: Registers that a thread may have; 0 for as many as it likes.
        pdl: Start beside the kernel before and wait for it in the device.
        prefetch: Slabs of weights to ask for while waiting.
    """

    block_n: int
    block_m: int
    warps: int
    stages: int
    joined: bool
    shares: int = 0
    whole: int = 0
    registers: int = 0
    pdl: bool = False
    prefetch: int = 0


def m_class(m: int) -> int:
    """Give the tokens of a tile that serves m."""
    return next((c for c in M_CLASSES if m <= c), M_CLASSES[-1])


def tile_for(
    device: DeviceProfile, stem: str, kind: str, *, n: int, k: int, m: int, row_bytes: int
) -> Tile:
    """Give the tile for a product on a device.

    Args:
        device: Where it runs.
        stem: The kernel's file name.
        kind: As in the measured rows.
        n: Channels.
        k: Products of a sum.
        m: Tokens; only their class counts.
        row_bytes: Bytes of a row of weights and scales in a slab.
    """
    block_m = m_class(m)
    if interpreting():
        block_n = 256 if n > 128 else 128
        # few programs, since each costs; two or more where there are as many slabs
        units = -(-n // block_n) * -(-k // SLAB)
        return Tile(block_n, block_m, 4, 1, joined=True, shares=min(3, units) if units > 1 else 0)
    for m_max, row in tuned_ranges(device.name, stem, kind, n=n, k=k):
        # what was measured with few tokens says nothing of many
        if block_m <= m_class(m_max) and min(block_m, _MOST_TOKENS) <= row["block_m"]:
            return _measured(row, device, n=n, k=k, block_m=block_m)
    return _computed(device, n=n, k=k, block_m=block_m, row_bytes=row_bytes)


def _measured(
    row: Mapping[str, int], device: DeviceProfile, *, n: int, k: int, block_m: int
) -> Tile:
    """Give a measured tile; the work of another shape is shared out as computed for it."""
    block_n, per_sm, keep = row["block_n"], row["per_sm"], bool(row["whole"])
    if (row["n"], row["k"]) != (n, k) and row["block_m"] in _COST_OF_SHARES:
        per_sm, keep = _sharing(device, block_n, row["block_m"], n=n, k=k)
    whole, shares = _shares(device, block_n, per_sm, keep, n=n, k=k)
    return Tile(
        block_n=block_n,
        block_m=min(block_m, row["block_m"]),
        warps=row["warps"],
        stages=row["stages"],
        joined=bool(row["joined"]),
        shares=shares,
        whole=whole,
        registers=row["registers"] if shares else 0,
        pdl=True,
        prefetch=row["prefetch"],
    )


def _computed(device: DeviceProfile, *, n: int, k: int, block_m: int, row_bytes: int) -> Tile:
    """Give two programs an SM for few tokens, one for many; shares where tiles come out uneven."""
    sm = device.arch.sm or 0
    pdl = sm >= _FIRST_WITH_PDL
    tensor_memory = _FIRST_WITH_TENSOR_MEMORY <= sm < _LAST_WITH_TENSOR_MEMORY
    many = block_m > _MOST_TOKENS
    block_m, block_n = min(block_m, _MOST_TOKENS), 128
    room = int((device.smem_kib or _SMEM_KIB) * 1024) // (2 if block_m <= 32 else 1) - 4096
    weights, x = block_n * row_bytes, block_m * SLAB * 2
    # what is being used is in registers already, x is not
    most = 3 if block_m <= 32 else 2
    stages = next((s for s in range(most, 1, -1) if (s - 1) * weights + s * x <= room), 1)
    per_sm, keep = (0, False) if many else _sharing(device, block_n, block_m, n=n, k=k)
    whole, shares = _shares(device, block_n, per_sm, keep, n=n, k=k)
    return Tile(
        block_n=block_n,
        block_m=block_m,
        warps=4,
        stages=stages,
        joined=tensor_memory,
        shares=shares,
        whole=whole,
        pdl=pdl,
        prefetch=stages if pdl else 0,
    )


def _sharing(
    device: DeviceProfile, block_n: int, block_m: int, *, n: int, k: int
) -> tuple[int, bool]:
    """Give the programs an SM that share work, and whether whole tiles stand beside them.

    A tile of each SM costs as many slabs as K has; the SM with the most tiles is the last one.
    """
    tiles = -(-n // block_n) / (device.sm_count or _SMS)
    slabs = -(-k // SLAB)
    costs = {(0, False): math.ceil(tiles) * slabs * (_ALONE if tiles <= 1 else 1.0)}
    costs[2, False] = tiles * slabs + _COST_OF_SHARES[block_m]
    if block_m == M_CLASSES[0] and tiles > 1:
        costs[1, True] = tiles * slabs + _COST_BESIDE_WHOLE
    return min(costs, key=costs.__getitem__)


def _shares(
    device: DeviceProfile, block_n: int, per_sm: int, keep: bool, *, n: int, k: int
) -> tuple[int, int]:
    """Give how many tiles stay whole, and how many programs share the rest; (0, 0) for no shares.

    Args:
        device: Says how many SMs there are.
        block_n: Channels of a tile.
        per_sm: Programs an SM that share; 0 for a program a tile.
        keep: As many tiles stay whole as every SM can have of them.
        n: Channels.
        k: Products of a sum.
    """
    sms = device.sm_count or _SMS
    tiles, slabs = -(-n // block_n), -(-k // SLAB)
    whole = tiles // sms * sms if keep else 0
    rest = tiles - whole
    shares = min(per_sm * sms, rest * slabs // min(_LEAST_SLABS, slabs))
    return (0, 0) if shares in (0, rest) else (whole, shares)
