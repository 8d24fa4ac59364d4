"""triton/linear_fp8_block: FP8 1 x 128 by FP8 128 x 128, promoted every 128 of K, any M."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_block_config import STEM, tiles
from quantmux_triton.linear.fp8_host import LargeMLinear

kernel: Final = LargeMLinear(STEM, tiles)
