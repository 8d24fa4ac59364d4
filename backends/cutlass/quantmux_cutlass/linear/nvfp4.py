"""cutlass/linear_nvfp4: NVFP4 by NVFP4 on the block-scaled tensor cores of Blackwell."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.nvfp4_config import choose
from quantmux_cutlass.linear.nvfp4_weights import swizzled_weights

kernel: Final = CutlassLinear("nvfp4", choose, row_multiple=8, prepare=swizzled_weights)
