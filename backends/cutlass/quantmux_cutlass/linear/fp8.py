"""cutlass/linear_fp8: FP8 with tensor or row scales for many tokens, rows of y in 16-byte steps."""

from __future__ import annotations

from typing import Final

from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.fp8_config import choose

kernel: Final = CutlassLinear("fp8", choose, row_multiple=8)
