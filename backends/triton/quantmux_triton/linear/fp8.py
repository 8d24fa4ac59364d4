"""triton/linear_fp8: FP8 by FP8, one scale a tensor or a row on either side, any M."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_host import LargeMLinear
from quantmux_triton.linear.fp8_tiles import scaled_tiles

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile

STEM: Final = "fp8"


def _tiles(sm: int, aligned: bool, exact: bool, divided: bool) -> tuple[Tile, ...]:
    return scaled_tiles(sm, aligned=aligned, exact=exact, divided=divided)


kernel: Final = LargeMLinear(STEM, _tiles)
