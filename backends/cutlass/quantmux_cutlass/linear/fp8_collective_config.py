"""Which tile of CUTLASS's CollectiveBuilder multiplies FP8 with tensor or row scales.

The time of a launch is ``start + waves · (steps · step + tile)``, but at least what its bytes take:
every multiprocessor makes tile after tile, and the last wave takes as long as a full one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_fp8_collective import TILES, unit

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

M_MIN: Final = 65
"""Below, kernels for few tokens are faster at every shape that was measured (H200, 2026-11-21)."""

_STEP_K: Final = 128
"""Columns of x and w that one step multiplies."""

_SMS: Final = 132
"""Multiprocessors of an H200 and of an H100 SXM: for a device that does not say how many it has."""

_COPY_GB_S: Final = 4100.0
_START_US: Final = 3.2

_BESIDE_OWN_TILES: Final = 1.08
"""In the run that timed both, these took 1.08 times as long as our own tiles in the geometric mean
of 54 shapes; the times in `TILES` are of a run before, and some percent too short beside theirs."""

_ORDER: Final = (0, 1)
"""CUTLASS's own order of tiles: others took the same time within 1 % or longer (R0)."""


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library of least expected time for y [m, N]."""
    n, k = config.n, config.k
    name = min(TILES, key=lambda tile: tile_us(tile, n, k, device, m))
    return Choice(unit(name), _ORDER)


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of the tile that is chosen, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    least = min(tile_us(name, config.n, config.k, device, m) for name in TILES)
    return _BESIDE_OWN_TILES * least


def tile_us(name: str, n: int, k: int, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of a tile for y [m, n] over k, µs."""
    tile, sms = TILES[name], device.sm_count or _SMS
    along_m, along_n = tile.cluster
    rows = -(-m // (tile.rows * along_m)) * along_m
    columns = -(-n // (tile.columns * along_n)) * along_n
    tiles = rows * columns
    step = tile.step_us + tile.busy_us * min(tiles / sms, 1.0)
    if tiles > sms:
        step += tile.again_us
    multiplied = -(-tiles // sms) * (-(-k // _STEP_K) * step + tile.tile_us)
    moved = (n * k + m * (k + 2 * n)) / ((device.copy_gb_s or _COPY_GB_S) * 1e3)
    return _START_US + max(multiplied, moved)
