"""cutlass/linear_fp8_small_m: FP8 with tensor or row scales, few tokens, a stream of weights."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_small_m_config import M_MAX, choose

kernel: Final = CutlassLinear("fp8_small_m", choose, m_max=M_MAX)
