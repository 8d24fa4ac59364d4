"""Libraries of the block-scaled FP8 linears for many tokens.

One has all tiles by hand; one is CUTLASS's tile, of bf16 and fp16 outputs alike.
"""

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
    seconds=19.0,
    memory_gib=0.3,
)
"""Plain CUDA and PTX, no CUTLASS headers; seconds and memory: nvcc 13.0, 2026-11-21."""


COLLECTIVE: Final = Unit(
    name="fp8_block_collective",
    source="csrc/linear/fp8_block_collective.cu",
    targets=("90a",),
    macros=(("QM_CM", "1"), ("QM_CN", "2")),
    cutlass=">=4.3.5",
    self_test="quantmux_cutlass.linear.self_test:fp8_block",
    test_options=((0, 1), (1, 8), (2, 2)),
    seconds=48.0,
    memory_gib=5.0,
)
"""Seconds and memory: nvcc 13.0, CUTLASS 4.5.0 headers, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give both."""
    return (TILES, COLLECTIVE)
