"""triton/linear_fp8: FP8 by FP8, one scale a tensor or a row on either side, any M."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_config import scaled_tiles
from quantmux_triton.linear.fp8_host import LargeMLinear

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile


def _tiles(sm: int, tma: bool, exact: bool) -> tuple[Tile, ...]:
    return scaled_tiles(sm, tma=tma, exact=exact)


kernel: Final = LargeMLinear(_tiles)
