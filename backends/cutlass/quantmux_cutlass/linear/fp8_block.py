"""cutlass/linear_fp8_block: FP8 1 x 128 by FP8 128 x 128, promoted every 128 of K, any M."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_block_config import choose

kernel: Final = CutlassLinear("fp8_block", choose, row_multiple=1)
