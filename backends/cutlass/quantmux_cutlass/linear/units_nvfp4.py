"""Libraries of the NVFP4 linear: a family of GPUs, a tile and an output format each.

Rows of a tile times its columns times the columns of K that are loaded at a time:

===== =========== ==== =====================================================================
sm100 128x128x256 1 SM five stages of 37 KiB, two accumulators in tensor memory
sm100 256x128x256 2 SM two multiprocessors share the columns' operand: half its traffic a flop
sm120 128x128x128 1 SM mma.sync, accumulators in registers; 99 KiB of shared memory hold 4 stages
===== =========== ==== =====================================================================

Seconds and memory: nvcc 13.0, CUTLASS 4.5.0, 2026-11-21.
"""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

_SELF_TEST: Final = "quantmux_cutlass.linear.self_test:nvfp4"
_OUT: Final = {"bf16": "0", "fp16": "1"}

Tile = tuple[int, int, int, int]
"""Rows, columns, columns of K, multiprocessors that share it."""

TILES: Final[dict[str, Tile]] = {
    "sm100": (128, 128, 256, 1),
    "sm100_pair": (256, 128, 256, 2),
    "sm120": (128, 128, 128, 1),
}
"""Tiles by the name that stands in the library's."""


def _unit(tile: str, out: str) -> Unit:
    rows, columns, depth, shared = TILES[tile]
    sm = tile[2:5]
    return Unit(
        name=f"nvfp4_{tile}_{out}",
        source="csrc/linear/nvfp4_gemm.cu",
        targets=(f"{sm}f",),
        macros=(
            ("QM_SM", sm),
            ("QM_OUT", _OUT[out]),
            ("QM_TM", str(rows)),
            ("QM_TN", str(columns)),
            ("QM_TK", str(depth)),
            ("QM_CTAS", str(shared)),
        ),
        cutlass=">=4.3.5",
        self_test=_SELF_TEST,
        interface="linear_global",
        seconds=130.0,
        memory_gib=6.0,
    )


_UNITS: Final = {(tile, out): _unit(tile, out) for tile in TILES for out in _OUT}


def unit(tile: str, out: str) -> Unit:
    """Give the unit of a tile of `TILES` and an output format, ``bf16`` or ``fp16``."""
    return _UNITS[tile, out]


def units() -> tuple[Unit, ...]:
    """Give all of them."""
    return tuple(_UNITS.values())
