"""What CUTLASS's block-scaled tile is told for a layer, and the time to expect of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.fp8_block_config import SMS, parts
from quantmux_cutlass.linear.units_fp8_block import COLLECTIVE

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

_ROWS: Final = 128
_COLUMNS: Final = 128
_STEP: Final = 128

_START_US: Final = 2.5
_STEP_US: Final = 0.44
_TILE_US: Final = 2.3
"""Launch; 128 of K of a tile; a tile beyond: one H200, 2026-11-21, of the same run as
`fp8_block_measured`."""

_CUTLASS_CHOOSES: Final = 0
_SIDE_BY_SIDE: Final = 1
"""Tiles side by side before the order moves on. 8 was never more than 1 % faster (18432 x 7168, M =
4096: 995 against 997 µs) and 2.4 times as slow at 576 x 7168, M = 4096 (127 against 53 µs)."""


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library and the order of tiles for y [m, N]."""
    del config, device, m
    return Choice(COLLECTIVE, (_CUTLASS_CHOOSES, _SIDE_BY_SIDE))


def collective_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the time to expect, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    # clusters of two tiles along N
    units = parts(m, _ROWS) * parts(parts(config.n, _COLUMNS), 2)
    waves = parts(units, (device.sm_count or SMS) // 2)
    return _START_US + waves * (parts(config.k, _STEP) * _STEP_US + _TILE_US)
