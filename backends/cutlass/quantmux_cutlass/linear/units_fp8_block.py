"""The library of the block-scaled FP8 linear for many tokens: all tiles in one, hand-written."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

_TESTED: Final = (
    (128, 1, 0, 1, 8, 0, 0),
    (112, 1, 1, 2, 8, 0, 0),
    (128, 2, 2, 2, 8, 1, 0),
    (64, 0, 3, 2, 8, 0, 0),
)
"""Options of a load's self-test: alone, either pair, a divided K; all three heights of tiles."""

TILES: Final = Unit(
    name="fp8_block_tiles",
    source="csrc/linear/fp8_block_tiles.cu",
    targets=("90a",),
    self_test="quantmux_cutlass.linear.self_test:fp8_block",
    test_options=_TESTED,
    seconds=12.0,
    memory_gib=0.6,
)
"""Plain CUDA and PTX, no CUTLASS headers; seconds and memory: nvcc 13.0, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give the one library."""
    return (TILES,)
