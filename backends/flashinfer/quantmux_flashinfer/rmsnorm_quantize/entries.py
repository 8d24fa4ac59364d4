"""What the RMSNorm kernel calls of FlashInfer, as data.

Left out, and why: ``fused_add_rmsnorm_quant`` and ``fused_add_rmsnorm_fp8_block_quant`` add to a
residual and write the sum over it, and a producer changes no input; the latter, which is the only
one with a scale for 1x128, rounds to bf16 before it quantizes, and leaves the pad rows of its
scales unwritten (H200, 2026-11-21). ``layernorm_quant`` belongs to no op here.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

RMSNORM: Final = Entry(
    function="flashinfer.norm:rmsnorm_quant",
    parameters=("out", "input", "weight", "scale", "eps", "enable_pdl"),
    modules=(ModuleUse("norm"),),
)
