"""triton/linear_int8: int8 by int8 with an int32 sum, scales and bias in fp32, any M."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_host import LargeMLinear
from quantmux_triton.linear.int8_config import int8_tiles

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile


def _tiles(sm: int, tma: bool, exact: bool) -> tuple[Tile, ...]:
    del exact  # sums of integers are
    return int8_tiles(sm, tma=tma)


kernel: Final = LargeMLinear(_tiles)
