"""cutlass/linear_fp8_collective: FP8 with tensor or row scales on CUTLASS's CollectiveBuilder."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_collective_config import M_MIN, choose

kernel: Final = CutlassLinear("fp8_collective", choose, row_multiple=8, m_min=M_MIN)
