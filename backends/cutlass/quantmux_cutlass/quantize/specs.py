"""Specs of the NVFP4 quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from quantmux.config.operands import GlobalScale

_SOURCES = (
    "abi.py",
    "instructions.py",
    "interfaces.py",
    "native.py",
    "units.py",
    "linear/choice.py",
    "quantize/bound.py",
    "quantize/nvfp4.py",
    "quantize/nvfp4_abi.py",
    "quantize/nvfp4_config.py",
    "quantize/outputs.py",
    "quantize/units.py",
    NVFP4.source,
)


def _capability(global_scale: GlobalScale, launches: int) -> Capability:
    offer = OperandOffer(
        element=ElementFormat.FP4_E2M1,
        block=Block(rows=1, cols=16),
        scale_type="e4m3",
        global_scales=(global_scale,),
        layouts=("row_major", "swizzled_128x4", "swizzled_8x4"),
    )
    return Capability(
        arch=arch_sets("90a", "100f", "120f"),
        produces=(offer,),
        takes_padded_n=True,
        takes_padded_m=True,
        in_dtypes=("bf16", "fp16", "fp32"),
        launches=launches,
        tags=frozenset({"cuda_graph", "deterministic"}),
    )


def specs() -> tuple[KernelSpec, ...]:
    """Give the quantizer with a given global scale, and the one that computes it."""
    return (
        KernelSpec(
            id="cutlass/quantize_nvfp4",
            op="quantize",
            capability=_capability("static", 1),
            load="quantmux_cutlass.quantize.nvfp4:kernel",
            sources=_SOURCES,
            summary="NVFP4 with a given global scale, in every layout",
        ),
        KernelSpec(
            id="cutlass/quantize_nvfp4_dynamic",
            op="quantize",
            capability=_capability("dynamic", 2),
            load="quantmux_cutlass.quantize.nvfp4:dynamic",
            sources=_SOURCES,
            summary="NVFP4 with a global scale computed from x, in every layout",
        ),
    )
