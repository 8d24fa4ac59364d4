"""cutlass/linear_fp8_direct: FP8 with tensor or row scales, y contiguous whatever its width."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_config import choose

kernel: Final = CutlassLinear("fp8_direct", choose, row_multiple=1)
