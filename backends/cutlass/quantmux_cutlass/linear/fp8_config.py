"""Which tile multiplies FP8 with tensor or row scales for many tokens, from measured times.

The time of a launch is ``start + waves · (steps · step + tile)``, but at least what its bytes
take: every multiprocessor makes tile after tile, each takes a time for every 128 of K and a time
to be stored, and the last wave takes as long as a full one. Where K is divided over a cluster each
CTA takes its share of the steps, and all exchange their sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.fp8_forms import TILES, Form, Tile
from quantmux_cutlass.linear.units_fp8 import TILES_LIBRARY

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig, LinearConfig

_STEP_K: Final = 128
"""Columns of x and w that one step multiplies."""

_SMS: Final = 132
"""Multiprocessors of an H200 and of an H100 SXM: for a device that does not say how many it has."""

_COPY_GB_S: Final = 4000.0

_START_US: Final = 2.05
"""Launch, first loads, last stores."""

_EXCHANGE_US: Final = 0.03
"""What CTAs that divide K take to exchange their sums, beyond what is in the tile's time."""

_CLUSTERS: Final = {1: 132, 2: 66, 3: 39, 4: 30, 5: 22, 6: 17, 7: 15, 8: 15}
"""Clusters of so many CTAs that run at the same time on an H200's 132 multiprocessors: they lie in
groups of 16 or 18, and none reaches over two (cudaOccupancyMaxActiveClusters, 2026-11-21)."""

_FAST: Final = (Form.PING_PONG, Form.TOGETHER, Form.SPLIT)
_EXACT: Final = (Form.EXACT, Form.SPLIT_EXACT)

_SPARE: Final = 0.02
"""So little of what is hidden behind the longer of the two: it only breaks ties."""

_ALONE: Final = 0
"""No pairs of tiles: sharing w or x by multicast took 1 to 4 % longer in the mean (same run)."""

_BAND: Final = 8
"""Tiles abreast; 4 and 16 took the same time within 1 %."""

_ALONG_M_BELOW: Final = 1024
"""Bands along M are 1 % faster for fewer rows, and up to 20 % slower for some layers of more."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A tile, and how many CTAs its K is divided over (1: not).

    Attributes:
        tile: The tile.
        splits: CTAs.
    """

    tile: Tile
    splits: int = 1


def choose(config: LinearConfig, device: DeviceProfile, m: int) -> Choice:
    """Give the tile and the order of tiles for y [m, N]."""
    cut, _ = _best(
        config.n,
        config.k,
        m,
        config.scheme.accumulation == "exact",
        device.sm_count or _SMS,
        device.copy_gb_s or _COPY_GB_S,
    )
    return Choice(TILES_LIBRARY, options(cut, m))


def expected_us(config: LayerConfig, device: DeviceProfile, m: int) -> float:
    """Give the time to expect of the tile that is chosen, µs; it orders this backend's kernels."""
    if config.op != "linear":
        return float("inf")
    _, us = _best(
        config.n,
        config.k,
        m,
        config.scheme.accumulation == "exact",
        device.sm_count or _SMS,
        device.copy_gb_s or _COPY_GB_S,
    )
    return us


def cut_us(cut: Cut, n: int, k: int, m: int, sms: int, copy_gb_s: float) -> float:
    """Give the time to expect of a tile for y [m, n] over k, µs."""
    tile, splits = cut.tile, cut.splits
    tiles = -(-m // tile.rows) * -(-n // tile.columns)
    waves = -(-tiles * splits // sms)
    all_steps = -(-k // _STEP_K)
    steps = -(-all_steps // splits)
    step = tile.step_us + tile.busy_us * min(tiles * splits / sms, 1.0)
    multiplied = waves * (steps * step + tile.tile_us)
    if splits > 1:
        multiplied += _EXCHANGE_US
    moved = (n * k + m * (k + 2 * n)) / (copy_gb_s * 1e3)
    # of tiles that all wait for memory, the one with the most time to spare
    return _START_US + max(multiplied, moved) + _SPARE * min(multiplied, moved)


def options(cut: Cut, m: int) -> tuple[int, ...]:
    """Give `QmProblem.option` of `csrc/linear/fp8_tiles.cu` for a tile."""
    tile = cut.tile
    along_m = int(m < _ALONG_M_BELOW)
    splits = cut.splits if cut.splits > 1 else 0
    return (tile.columns, tile.rows, int(tile.form), _ALONE, _BAND, along_m, splits)


@lru_cache(maxsize=4096)
def _best(n: int, k: int, m: int, exact: bool, sms: int, copy_gb_s: float) -> tuple[Cut, float]:
    """Give the tile of least expected time and that time; of equals the first."""
    forms = _EXACT if exact else _FAST
    steps = -(-k // _STEP_K)
    best: tuple[Cut, float] | None = None
    for tile in TILES:
        if tile.form not in forms:
            continue
        for cut in _cuts(tile, n, m, steps, sms):
            us = cut_us(cut, n, k, m, sms, copy_gb_s)
            if best is None or us < best[1]:
                best = (cut, us)
    if best is None:
        raise RuntimeError("no tile is compiled for this accumulation")
    return best


def _cuts(tile: Tile, n: int, m: int, steps: int, sms: int) -> list[Cut]:
    if tile.form not in (Form.SPLIT, Form.SPLIT_EXACT):
        return [Cut(tile)]
    tiles = -(-m // tile.rows) * -(-n // tile.columns)
    fitting = [s for s in _CLUSTERS if 1 < s <= steps and tiles <= _CLUSTERS[s] * sms // _SMS]
    return [Cut(tile, splits) for splits in fitting]
