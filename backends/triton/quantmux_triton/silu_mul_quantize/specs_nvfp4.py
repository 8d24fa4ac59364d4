"""Specs of SiLU·mul with quantization to NVFP4."""

from __future__ import annotations

from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.quantize.specs_nvfp4 import NVFP4_SOURCES, nvfp4_capability


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs."""
    sources = ("silu_mul_quantize/nvfp4.py", *NVFP4_SOURCES)
    return (
        KernelSpec(
            id="triton/silu_mul_quantize_nvfp4",
            op="silu_mul_quantize",
            capability=nvfp4_capability("static", 1),
            load="quantmux_triton.silu_mul_quantize.nvfp4:kernel",
            sources=sources,
            summary="silu(gate)·up into NVFP4 with a given global scale, in every layout",
        ),
        KernelSpec(
            id="triton/silu_mul_quantize_nvfp4_dynamic",
            op="silu_mul_quantize",
            capability=nvfp4_capability("dynamic", 2),
            load="quantmux_triton.silu_mul_quantize.nvfp4:dynamic",
            sources=sources,
            summary="silu(gate)·up into NVFP4 with a global scale computed from it",
        ),
    )
