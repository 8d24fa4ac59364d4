"""What the NVFP4 quantizers call of FlashInfer, as data.

Left out, and why: ``nvfp4_quantize`` is ``fp4_quantize`` behind more checks, and does not pass on
that the global scale is given as a multiplier; ``per_token_activation`` makes an operand that
quantmux has no name for and reads its scale back to the host; ``mxfp4_quantize``,
``mxfp8_quantize`` have no scheme here yet; the batched and grouped forms belong to no op of ours.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

_FUNCTION: Final = "flashinfer:fp4_quantize"

CUDA: Final = Entry(
    function=_FUNCTION,
    parameters=(
        "input",
        "global_scale",
        "is_sf_swizzled_layout",
        "is_sf_8x4_layout",
        "is_global_scale_inversed",
        "enable_pdl",
        "nvfp4_4over6",
    ),
    backend="cuda",
    modules=(
        ModuleUse("fp4_quantization_100", ("100",)),
        ModuleUse("fp4_quantization_103", ("103",)),
        ModuleUse("fp4_quantization_107", ("107",)),
        ModuleUse("fp4_quantization_110", ("110",)),
        ModuleUse("fp4_quantization_120f", ("120f",)),
    ),
)
CUTE_DSL: Final = Entry(
    function=_FUNCTION,
    parameters=(
        "input",
        "global_scale",
        "is_sf_swizzled_layout",
        "is_sf_8x4_layout",
        "enable_pdl",
        "nvfp4_4over6",
    ),
    backend="cute-dsl",
    packages=(("nvidia-cutlass-dsl", "cutlass"),),
)
