"""Which tile multiplies FP8 with tensor or row scales for many tokens, from measured times.

The time of a launch is ``start + waves · (steps · step_us + tile_us)``, but at least what its
bytes and its operations take: every multiprocessor makes tile after tile, each takes a time for
every 128 of K and a time to be stored, and the last wave takes as long as a full one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.units_fp8 import TILES, unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

_STEP_K: Final = 128
"""Columns of x and w that one step multiplies."""

_SMS: Final = 132
"""Multiprocessors of an H200 and of an H100 SXM: for a device that does not say how many it has."""

_COPY_GB_S: Final = 4000.0
_FP8_TFLOPS: Final = 1979.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of one tile on an H200, µs; least squares over the shapes of the probe.

    Attributes:
        step_us: 128 of K of one tile, in a full wave.
        tile_us: A tile beyond its steps.
    """

    step_us: float
    tile_us: float


_START_US: Final = 2.5
"""Launch, first loads, last stores."""

_MEASURED: Final[dict[str, Measured]] = {
    "64x128": Measured(0.16, 0.5),
    "128x128": Measured(0.29, 0.7),
    "128x144": Measured(0.33, 0.7),
    "128x256": Measured(0.58, 2.5),
    "exact": Measured(0.36, 2.0),
    "direct": Measured(0.29, 3.0),
}

_FAST: Final = tuple(name for name in _MEASURED if name not in ("exact", "direct"))

_ALONG_M: Final = 1
_ALONG_N: Final = 2


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library and the order of tiles for y [m, N]."""
    name = best_tile(_names(config), config.n, config.k, device, m)
    return Choice(unit(name), order(name, config.n, m))


def choose_direct(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the library that stores y [m, N] element by element."""
    del device
    return Choice(unit("direct"), order("direct", config.n, m))


def expected_us(
    config: LayerConfig, device: DeviceProfile, m: int, *, direct: bool = False
) -> float:
    """Give the time to expect of the tile that is chosen, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    names = ("direct",) if direct else _names(config)
    return min(tile_us(name, config.n, config.k, device, m) for name in names)


def best_tile(names: Iterable[str], n: int, k: int, device: DeviceProfile, m: int) -> str:
    """Give the tile of least expected time; of equals the first."""
    return min(names, key=lambda name: tile_us(name, n, k, device, m))


def tile_us(name: str, n: int, k: int, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of a tile for y [m, n] over k, µs."""
    tile, measured = TILES[name], _MEASURED[name]
    along_m, along_n = tile.cluster
    rows = -(-m // (tile.rows * along_m)) * along_m
    columns = -(-n // (tile.columns * along_n)) * along_n
    waves = -(-rows * columns // (device.sm_count or _SMS))
    speed = (device.fp8_tflops or _FP8_TFLOPS) / _FP8_TFLOPS
    steps = -(-k // _STEP_K)
    multiplied = waves * (steps * measured.step_us / speed + measured.tile_us)
    moved = (n * k + m * (k + 2 * n)) / ((device.copy_gb_s or _COPY_GB_S) * 1e3)
    return _START_US + max(multiplied, moved)


def order(name: str, n: int, m: int) -> tuple[int, int]:
    """Give ``option[0]`` and ``option[1]``: along what blocks go first, and how many abreast."""
    del name, n, m
    return (0, 1)


def _names(config: LayerConfig) -> tuple[str, ...]:
    if config.op == "linear" and config.scheme.accumulation == "exact":
        return ("exact",)
    return _FAST
