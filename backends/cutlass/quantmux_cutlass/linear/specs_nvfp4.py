"""Specs of the NVFP4 linear for Blackwell."""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec

_NVFP4: Final = OperandOffer(
    element=ElementFormat.FP4_E2M1,
    block=Block(rows=1, cols=16),
    scale_type="e4m3",
    scale_modes=("dynamic", "static"),
    global_scales=("dynamic", "static"),
    layouts=("row_major",),
)

_CAPABILITY: Final = Capability(
    arch=arch_sets("100f", "120f"),
    schemes=(SchemeOffer(weight=_NVFP4, activation=_NVFP4.replace(layouts=("swizzled_128x4",))),),
    # rows of x are whole 16 bytes: 32 codes
    takes_padded_n=True,
    pad_k_to=32,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16"),
    takes_bias=True,
    accumulations=("fast",),
    output_row_multiple=8,
    weight_layout="cutlass:nvfp4_swizzled",
    launches=1,
    # never run: no Blackwell GPU was at hand; compiled and its instructions looked at
    tags={"cuda_graph", "deterministic", "experimental"},
)

_SOURCES: Final = (
    "abi.py",
    "csrc/abi.cuh",
    "csrc/linear/nvfp4_checks.cuh",
    "csrc/linear/nvfp4_epilogue.cuh",
    "csrc/linear/nvfp4_gemm.cu",
    "instructions.py",
    "linear/bound.py",
    "linear/choice.py",
    "linear/consumer.py",
    "linear/layer.py",
    "linear/nvfp4.py",
    "linear/nvfp4_config.py",
    "linear/nvfp4_weights.py",
    "linear/outputs.py",
    "linear/padding.py",
    "linear/units_nvfp4.py",
    "native.py",
    "units.py",
)


def specs() -> tuple[KernelSpec, ...]:
    """Give the spec."""
    return (
        KernelSpec(
            id="cutlass/linear_nvfp4",
            op="linear",
            capability=_CAPABILITY,
            load="quantmux_cutlass.linear.nvfp4:kernel",
            sources=_SOURCES,
            summary="NVFP4 by NVFP4 on Blackwell's block-scaled tensor cores",
        ),
    )
