"""What the relayout kernel calls of FlashInfer, as data."""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

INTERLEAVE: Final = Entry(
    function="flashinfer:block_scale_interleave",
    parameters=("unswizzled_sf", "out"),
    modules=(
        ModuleUse("fp4_quantization_90", ("90a",)),
        ModuleUse("fp4_quantization_100", ("100",)),
        ModuleUse("fp4_quantization_103", ("103",)),
        ModuleUse("fp4_quantization_107", ("107",)),
        ModuleUse("fp4_quantization_110", ("110",)),
        ModuleUse("fp4_quantization_120f", ("120f",)),
    ),
)
