"""triton/linear_fp8_block: FP8 1 x 128 by FP8 128 x 128, promoted every 128 of K, any M."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_triton.linear.fp8_block_config import block_tiles
from quantmux_triton.linear.fp8_host import LargeMLinear

if TYPE_CHECKING:
    from quantmux_triton.linear.fp8_config import Tile


def _tiles(sm: int, aligned: bool, exact: bool, divided: bool) -> tuple[Tile, ...]:
    del exact  # it always is
    return block_tiles(sm, aligned=aligned, divided=divided)


kernel: Final = LargeMLinear(_tiles)
