"""triton/quantize_nvfp4 and …_dynamic: rows into NVFP4, in one launch or two."""

from __future__ import annotations

from typing import Final

from quantmux.config import QuantizeConfig
from quantmux_triton.quantize.nvfp4_host import NvFp4

kernel: Final = NvFp4(QuantizeConfig, "quantize", silu=False)
"""With a global scale that is given: one launch."""

dynamic: Final = NvFp4(QuantizeConfig, "quantize", silu=False)
"""With one that is computed from x: two launches."""
