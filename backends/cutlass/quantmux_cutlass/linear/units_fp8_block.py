"""The library of the block-scaled FP8 linear for many tokens: all tiles in one, hand-written."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

TILES: Final = Unit(
    name="fp8_block_tiles",
    source="csrc/linear/fp8_block_tiles.cu",
    targets=("90a",),
    self_test="quantmux_cutlass.linear.self_test:fp8_block",
    seconds=12.0,
    memory_gib=0.6,
)
"""Plain CUDA and PTX, no CUTLASS headers; seconds and memory: nvcc 13.0, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give the one library."""
    return (TILES,)
