"""Libraries of the FP8 linear on CUTLASS's CollectiveBuilder: one tile each.

bf16 and fp16 outputs are one library (`csrc/linear/collective_epilogue.cuh` says how).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantmux_cutlass.units import Unit


@dataclass(frozen=True, slots=True)
class Tile:
    """One configuration of `csrc/linear/collective_fp8.cuh`, and what it costs on an H200.

    A step is 128 of K of one tile, µs. It takes ``step_us``, ``busy_us`` more when all
    multiprocessors have a tile and ``again_us`` more when there are tiles for more than one wave;
    a tile takes ``tile_us`` beyond its steps.

    Attributes:
        rows: Rows of x that one thread block multiplies.
        columns: Rows of w that it multiplies them by, columns of y.
        cluster: Thread blocks along M that share a tile of w, and along N one of x.
        step_us: Where few multiprocessors are busy.
        busy_us: The tensor cores' and the memory's other users.
        again_us: Likewise from the second wave on.
        tile_us: First loads and last stores.
    """

    rows: int
    columns: int
    cluster: tuple[int, int]
    step_us: float
    busy_us: float
    again_us: float
    tile_us: float


TILES: Final[dict[str, Tile]] = {
    "128x128": Tile(128, 128, (1, 2), 0.2916, 0.0827, 0.0131, 0.2223),
    "64x96": Tile(64, 96, (1, 1), 0.0994, 0.0724, 0.0025, 0.2869),
}
"""Tiles by the name that stands in the library's: those of sixteen that are faster than our own
tiles somewhere (18432 x 7168 at M = 4096 by 4 %, 576 x 7168 at M = 1024 by 8 %).

Times: H200, CUTLASS 4.5.0, cold L2, least squares over 45 shapes of M 128 to 8192, 2026-11-21.
"""


def _unit(name: str, tile: Tile) -> Unit:
    return Unit(
        name=f"fp8_collective_{name}",
        source="csrc/linear/fp8_collective.cu",
        targets=("90a",),
        macros=(
            ("QM_TM", str(tile.rows)),
            ("QM_TN", str(tile.columns)),
            ("QM_CM", str(tile.cluster[0])),
            ("QM_CN", str(tile.cluster[1])),
        ),
        cutlass=">=4.2",
        self_test="quantmux_cutlass.linear.self_test:fp8_row",
        test_options=((0, 1), (2, 8)),
        # nvcc 13.0, CUTLASS 4.5.0, alone on a core, 2026-11-21
        seconds=45.0,
        memory_gib=4.0,
    )


_UNITS: Final = {name: _unit(name, tile) for name, tile in TILES.items()}


def unit(name: str) -> Unit:
    """Give the unit of a tile of `TILES`."""
    return _UNITS[name]


def units() -> tuple[Unit, ...]:
    """Give all of them."""
    return tuple(_UNITS.values())
