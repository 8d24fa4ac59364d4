"""triton/linear_fp8_block_small_m: FP8 of 1 × 128 by 128 × 128 scales, few tokens."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_small_m_host import SmallMLinear

kernel: Final = SmallMLinear()
