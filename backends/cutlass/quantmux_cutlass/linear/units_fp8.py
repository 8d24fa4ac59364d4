"""Libraries of the FP8 linears with tensor or row scales for many tokens."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear import units_fp8_collective
from quantmux_cutlass.linear.fp8_forms import Form
from quantmux_cutlass.units import Unit

TILES_LIBRARY: Final = Unit(
    name="fp8_tiles",
    source="csrc/linear/fp8_tiles.cu",
    targets=("90a",),
    self_test="quantmux_cutlass.linear.self_test:fp8_row",
    test_options=(
        (128, 128, Form.PING_PONG, 1, 8, 0, 0),
        (64, 64, Form.PING_PONG, 2, 8, 1, 0),
        (256, 128, Form.TOGETHER, 0, 8, 0, 0),
        (128, 128, Form.EXACT, 0, 8, 0, 0),
        (96, 128, Form.SPLIT, 0, 8, 0, 3),
        (64, 128, Form.SPLIT_EXACT, 0, 8, 0, 2),
    ),
    seconds=30.0,
    memory_gib=0.5,
)
"""Both outputs, both accumulations. Seconds and memory: nvcc 13.0, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give the hand-written tiles' and those of CUTLASS's CollectiveBuilder."""
    return (TILES_LIBRARY, *units_fp8_collective.units())
