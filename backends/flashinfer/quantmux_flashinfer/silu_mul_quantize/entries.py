"""What the SiLU·mul kernel calls of FlashInfer, as data.

Left out, and why: ``silu_and_mul_scaled_nvfp4_experts_quantize`` is for experts of a batch, which
no op here has (and writes nothing on sm90, without an error); ``silu_and_mul_mxfp8_quantize`` has
no scheme here yet. No release fuses SiLU·mul with FP8 quantization.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry

SILU_MUL: Final = Entry(
    function="flashinfer:silu_and_mul_nvfp4_quantize",
    parameters=(
        "input",
        "global_scale",
        "is_sf_swizzled_layout",
        "is_sf_8x4_layout",
        "enable_pdl",
        "nvfp4_4over6",
    ),
    packages=(("nvidia-cutlass-dsl", "cutlass"),),
)
