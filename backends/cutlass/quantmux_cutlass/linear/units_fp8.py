"""Libraries of the FP8 linear with tensor or row scales for many tokens: one tile each.

bf16 and fp16 outputs are one library (`csrc/linear/collective_epilogue.cuh` says how).

Seconds and memory: nvcc 13.0, CUTLASS 4.5.0 headers, one compilation on an idle core, 2026-11-21.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_cutlass.units import Unit

_SECONDS: Final = 45.0
_MEMORY_GIB: Final = 4.0


@dataclass(frozen=True, slots=True)
class Tile:
    """One configuration of `csrc/linear/collective_fp8.cuh`.

    Attributes:
        rows: Rows of x that one thread block multiplies.
        columns: Rows of w that it multiplies them by, columns of y.
        cluster: Thread blocks along M that share a tile of w, and along N one of x.
        cooperative: Two math groups share a tile; otherwise they take turns (ping-pong).
        exact: Sums of 128 products are added up in fp32 registers.
        direct: y is stored element by element, not by TMA.
    """

    rows: int
    columns: int
    cluster: tuple[int, int] = (1, 1)
    cooperative: bool = False
    exact: bool = False
    direct: bool = False


TILES: Final[dict[str, Tile]] = {
    "64x128": Tile(64, 128),
    "128x128": Tile(128, 128, (2, 1)),
    "128x144": Tile(128, 144, (2, 1)),
    "128x256": Tile(128, 256, (2, 1), cooperative=True),
    "exact": Tile(128, 128, (2, 1), cooperative=True, exact=True),
    "direct": Tile(128, 128, direct=True),
}
"""Tiles by the name that stands in the library's."""


def _unit(name: str, tile: Tile) -> Unit:
    macros = {
        "QM_TM": tile.rows,
        "QM_TN": tile.columns,
        "QM_CM": tile.cluster[0],
        "QM_CN": tile.cluster[1],
        "QM_COOPERATIVE": int(tile.cooperative),
        "QM_EXACT": int(tile.exact),
        "QM_DIRECT": int(tile.direct),
    }
    return Unit(
        name=f"fp8_{name}",
        source="csrc/linear/fp8_collective.cu",
        targets=("90a",),
        macros=tuple((macro, str(value)) for macro, value in macros.items()),
        cutlass=">=4.2",
        self_test="quantmux_cutlass.linear.self_test:fp8_row",
        seconds=_SECONDS,
        memory_gib=_MEMORY_GIB,
    )


_UNITS: Final = {name: _unit(name, tile) for name, tile in TILES.items()}


def unit(name: str) -> Unit:
    """Give the unit of a tile of `TILES`."""
    return _UNITS[name]


def units() -> tuple[Unit, ...]:
    """Give all of them."""
    return tuple(_UNITS.values())
