"""Specs of the linears that widen their weights to 16 bit on the way to the matrix unit."""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.tuned import tuned_files

_HOST: Final = (
    "__init__.py",
    "linear/__init__.py",
    "linear/weight_only_host.py",
    "linear/weight_only_bound.py",
    "linear/weight_only_config.py",
    "linear/workspace.py",
    "linear/outputs.py",
    "linear/epilogue_kernel.py",
    "linear/shares_kernel.py",
    "linear/x_tile_kernel.py",
    "launcher.py",
    "interpreter.py",
    "tuned.py",
)
_NVFP4: Final = ("linear/nvfp4_slabs.py", "linear/e2m1_decode_kernel.py", *_HOST)


def _nvfp4(*layouts: str) -> OperandOffer:
    return OperandOffer(
        element=ElementFormat.FP4_E2M1,
        block=Block(rows=1, cols=16),
        scale_type="e4m3",
        scale_modes=("dynamic", "static"),
        global_scales=("dynamic", "static"),
        layouts=layouts,
    )


_W4A16: Final = Capability(
    arch=arch_sets("80+", "cpu"),
    schemes=(SchemeOffer(weight=_nvfp4("row_major")),),
    in_dtypes=("bf16", "fp16"),
    out_dtypes=("bf16", "fp16", "fp32"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=1,
    weight_layout="triton:nvfp4_slabs",
    launches=1,
    tags={"cuda_graph", "deterministic"},
)

_E4M3: Final = tuple(
    OperandOffer(
        element=ElementFormat.FP8_E4M3,
        block=block,
        roundings=("none", "pow2"),
        scale_modes=("dynamic", "static"),
        layouts=(layout,),
    )
    for block, layout in (
        (Block(rows=1, cols=FULL), "row_major"),
        (Block(rows=FULL, cols=FULL), "scalar"),
        (Block(rows=128, cols=128), "row_major"),
    )
)
_EMULATED: Final = _W4A16.replace(
    schemes=(
        SchemeOffer(
            weight=_nvfp4("row_major"),
            activation=_nvfp4("swizzled_128x4", "row_major", "swizzled_8x4"),
        ),
    ),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=("bf16", "fp16", "fp32"),
    compute="emulated",
)
_W8A16: Final = _W4A16.replace(
    schemes=tuple(SchemeOffer(weight=weight) for weight in _E4M3),
    weight_layout="triton:fp8_slabs",
)


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs of NVFP4 and FP8 weights by 16-bit x, and of NVFP4 by NVFP4 emulated."""
    return (
        KernelSpec(
            id="triton/linear_nvfp4_w4a16",
            op="linear",
            capability=_W4A16,
            load="quantmux_triton.linear.nvfp4_w4a16:kernel",
            sources=(
                "linear/nvfp4_w4a16.py",
                "linear/nvfp4_w4a16_kernel.py",
                *tuned_files("nvfp4_w4a16"),
                *_NVFP4,
            ),
            summary="NVFP4 weights decoded in registers, 16-bit activations",
        ),
        KernelSpec(
            id="triton/linear_nvfp4_emulated",
            op="linear",
            capability=_EMULATED,
            load="quantmux_triton.linear.nvfp4_emulated:kernel",
            sources=(
                "linear/nvfp4_emulated.py",
                "linear/nvfp4_emulated_kernel.py",
                *tuned_files("nvfp4_emulated"),
                *_NVFP4,
            ),
            summary="NVFP4 by NVFP4 decoded to bf16, for GPUs without FP4 units",
        ),
        KernelSpec(
            id="triton/linear_fp8_w8a16",
            op="linear",
            capability=_W8A16,
            load="quantmux_triton.linear.fp8_w8a16:kernel",
            sources=(
                "linear/fp8_w8a16.py",
                "linear/fp8_w8a16_kernel.py",
                *tuned_files("fp8_w8a16"),
                *_HOST,
            ),
            summary="FP8 weights widened in registers, 16-bit activations",
        ),
    )
