"""triton/silu_mul_quantize_nvfp4 and …_dynamic: ``silu(gate) · up`` into NVFP4."""

from __future__ import annotations

from typing import Final

from quantmux.config import SiluMulQuantizeConfig
from quantmux_triton.quantize.nvfp4_host import NvFp4

kernel: Final = NvFp4(SiluMulQuantizeConfig, "silu_mul_quantize", silu=True)
"""With a global scale that is given: one launch."""

dynamic: Final = NvFp4(SiluMulQuantizeConfig, "silu_mul_quantize", silu=True)
"""With one that is computed from the products: two launches, each of which computes them."""
