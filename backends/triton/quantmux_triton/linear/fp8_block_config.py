"""Which tiles the FP8 block product chooses from, and under which names its choices are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_tiles import block_tiles

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile

STEM: Final = "fp8_block"


def tiles(sm: int, aligned: bool, exact: bool, divided: bool) -> tuple[Tile, ...]:
    """Give the candidates; the sum is exact whether that is asked for or not."""
    del exact
    return block_tiles(sm, aligned=aligned, divided=divided)
