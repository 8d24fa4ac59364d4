"""Libraries of the FP8 linears for few tokens: one a scheme, all tiles in it, no headers needed."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

ROW: Final = Unit(
    name="fp8_stream",
    source="csrc/linear/fp8_stream.cu",
    targets=("90a",),
    self_test="quantmux_cutlass.linear.self_test:fp8_row",
    # a cluster that shares K, and a lone block; with either way of adding up
    test_options=((16, 64, 3, 2, 0, 1, 1), (64, 64, 1, 3, 1, 1, 1), (64, 112, 2, 2, 0)),
    seconds=22.0,
    memory_gib=0.4,
)
"""One scale a tensor or a row. Seconds and memory: nvcc 13.0, 2026-11-21."""

BLOCK: Final = Unit(
    name="fp8_block_stream",
    source="csrc/linear/fp8_block_stream.cu",
    targets=("90a",),
    self_test="quantmux_cutlass.linear.self_test:fp8_block",
    test_options=((16, 64, 3, 2, 0, 1, 1), (64, 64, 1, 3, 0, 1, 1), (64, 112, 2, 2, 0)),
    seconds=12.0,
    memory_gib=0.4,
)
"""Scales of 1 x 128 and 128 x 128. Seconds and memory: nvcc 13.0, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give both."""
    return (ROW, BLOCK)
