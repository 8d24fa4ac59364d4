"""Which tiles the INT8 product chooses from, and under which names its choices are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_tiles import int8_tiles

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile

STEM: Final = "int8"


def tiles(sm: int, aligned: bool, exact: bool, divided: bool) -> tuple[Tile, ...]:
    """Give the candidates; sums of integers are exact."""
    del exact
    return int8_tiles(sm, aligned=aligned, divided=divided)
