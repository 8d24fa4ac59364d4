"""Specs of the NVFP4 quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.tuned import tuned_files

if TYPE_CHECKING:
    from quantmux.config.operands import GlobalScale

NVFP4_SOURCES: Final = (
    "arithmetic.py",
    "e2m1_kernel.py",
    "interpreter.py",
    "launcher.py",
    "numerics_kernel.py",
    "quantize/nvfp4_block_kernel.py",
    "quantize/nvfp4_config.py",
    "quantize/nvfp4_host.py",
    "quantize/nvfp4_kernel.py",
    "quantize/nvfp4_outputs.py",
    "quantize/outputs.py",
    "quantize/variants.py",
    "silu_mul_quantize/silu_kernel.py",
    "tuned.py",
    *tuned_files("nvfp4"),
)
"""Files that every kernel which makes NVFP4 is made of."""


def nvfp4_capability(global_scale: GlobalScale, launches: int) -> Capability:
    """Give what a kernel offers that makes NVFP4 with a global scale of one origin."""
    offer = OperandOffer(
        element=ElementFormat.FP4_E2M1,
        block=Block(rows=1, cols=16),
        scale_type="e4m3",
        global_scales=(global_scale,),
        layouts=("row_major", "swizzled_128x4", "swizzled_8x4"),
    )
    return Capability(
        arch=arch_sets("cpu", "80+", "gfx942", "gfx950"),
        produces=(offer,),
        takes_padded_n=True,
        takes_padded_m=True,
        in_dtypes=("bf16", "fp16", "fp32"),
        launches=launches,
        tags=frozenset({"cuda_graph", "deterministic"}),
    )


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs."""
    sources = ("quantize/nvfp4.py", *NVFP4_SOURCES)
    return (
        KernelSpec(
            id="triton/quantize_nvfp4",
            op="quantize",
            capability=nvfp4_capability("static", 1),
            load="quantmux_triton.quantize.nvfp4:kernel",
            sources=sources,
            summary="NVFP4 with a given global scale, in every layout",
        ),
        KernelSpec(
            id="triton/quantize_nvfp4_dynamic",
            op="quantize",
            capability=nvfp4_capability("dynamic", 2),
            load="quantmux_triton.quantize.nvfp4:dynamic",
            sources=sources,
            summary="NVFP4 with a global scale computed from x, in every layout",
        ),
    )
