"""triton/linear_int8: int8 by int8 with an int32 sum, scales and bias in fp32, any M."""

from __future__ import annotations

from typing import Final

from quantmux_triton.linear.fp8_host import LargeMLinear
from quantmux_triton.linear.int8_config import STEM, tiles

kernel: Final = LargeMLinear(STEM, tiles)
