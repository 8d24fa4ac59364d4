"""triton/linear_fp8_small_m: FP8 by FP8, one scale a tensor or a row on either side, few tokens."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_small_m_host import SmallMLinear

kernel: Final = SmallMLinear()
