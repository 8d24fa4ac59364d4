"""cutlass/linear_fp8_block_collective: FP8 1 x 128 by FP8 128 x 128, CUTLASS's 128 x 128 tile."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_block_collective_config import choose

kernel: Final = CutlassLinear("fp8_block_collective", choose, row_multiple=8, m_min=65)
