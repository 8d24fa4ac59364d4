"""Which NVFP4 library serves M rows.

No Blackwell GPU was at hand: these rules are arithmetic, not measurement. sm120 has one tile. On
sm100 two multiprocessors share a tile of 256 rows where that costs no idle ones: when such tiles
are at least as many as there are pairs. Below, tiles of 128 rows are twice as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_nvfp4 import TILES, unit

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LinearConfig

_SMS: Final = 148
"""Multiprocessors of a B200: for a device that does not say how many it has."""

_SM120: Final = 12
"""Major compute capability of the family that has no tensor memory."""


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library for y [m, N] on a Blackwell GPU."""
    if (device.arch.sm or 0) // 10 == _SM120:
        return Choice(unit("sm120"))
    tile = "sm100_pair" if pays_in_pairs(m, config.n, device.sm_count or _SMS) else "sm100"
    return Choice(unit(tile))


def pays_in_pairs(m: int, n: int, sms: int) -> bool:
    """Tell whether tiles of 256 rows shared by two multiprocessors keep all of them busy."""
    rows, columns, _, shared = TILES["sm100_pair"]
    tiles = -(-m // rows) * -(-n // columns)
    return tiles * shared >= sms
