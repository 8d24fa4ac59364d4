"""The library of the NVFP4 quantizer: one for Hopper and Blackwell, no headers needed."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.units import Unit

NVFP4: Final = Unit(
    name="nvfp4_quantize",
    source="csrc/quantize/nvfp4.cu",
    targets=("90a+100f+120f",),
    self_test="quantmux_cutlass.quantize.self_test:nvfp4",
    interface="quantize",
    seconds=13.0,
    memory_gib=0.25,
)
"""All layouts and input formats. Seconds and memory (0.19 GiB): nvcc 13.0, 2026-11-21."""


def units() -> tuple[Unit, ...]:
    """Give it."""
    return (NVFP4,)
