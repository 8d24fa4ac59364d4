"""triton/linear_int8: int8 by int8 with an int32 sum, scales and bias in fp32, any M."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_host import LargeMLinear
from quantmux_triton.linear.int8_config import int8_tiles

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile


def _tiles(sm: int, aligned: bool, exact: bool, divided: bool) -> tuple[Tile, ...]:
    del exact  # sums of integers are
    return int8_tiles(sm, aligned=aligned, divided=divided)


kernel: Final = LargeMLinear(_tiles)
