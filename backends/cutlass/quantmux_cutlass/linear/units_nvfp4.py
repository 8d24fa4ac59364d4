"""Libraries of the NVFP4 linear: a family of GPUs and a tile each, bf16 and fp16 out in one.

Rows of a tile times its columns times the columns of K that are loaded at a time:

===== =========== ==== ===============================================================
sm100 128x128x256 1 SM tcgen05, sums in tensor memory
sm100 256x128x256 2 SM the same; two multiprocessors share what is loaded of w
sm120 128x128x128 1 SM mma.sync, sums in registers; only 99 KiB of shared memory there
===== =========== ==== ===============================================================
"""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

_COST: Final = {"sm100": (45.0, 4.1), "sm100_pair": (53.0, 4.7), "sm120": (55.0, 5.6)}
"""CPU seconds and GiB of one compilation: nvcc 13.0.88, CUTLASS 4.5.0, 2026-11-21."""

_SELF_TEST: Final = "quantmux_cutlass.linear.self_test:nvfp4"

Tile = tuple[int, int, int, int]
"""Rows, columns, columns of K, multiprocessors that share it."""

TILES: Final[dict[str, Tile]] = {
    "sm100": (128, 128, 256, 1),
    "sm100_pair": (256, 128, 256, 2),
    "sm120": (128, 128, 128, 1),
}
"""Tiles by the name that stands in the library's."""


def _unit(tile: str) -> Unit:
    rows, columns, depth, shared = TILES[tile]
    seconds, gib = _COST[tile]
    sm = tile[2:5]
    return Unit(
        name=f"nvfp4_{tile}",
        source="csrc/linear/nvfp4_gemm.cu",
        targets=(f"{sm}f",),
        macros=(
            ("QM_SM", sm),
            ("QM_TM", str(rows)),
            ("QM_TN", str(columns)),
            ("QM_TK", str(depth)),
            ("QM_CTAS", str(shared)),
        ),
        cutlass=">=4.3.5",
        self_test=_SELF_TEST,
        interface="linear_global",
        seconds=seconds,
        memory_gib=gib,
    )


_UNITS: Final = {tile: _unit(tile) for tile in TILES}


def unit(tile: str) -> Unit:
    """Give the unit of a tile of `TILES`."""
    return _UNITS[tile]


def units() -> tuple[Unit, ...]:
    """Give all of them."""
    return tuple(_UNITS.values())
