"""Specs of the linears that widen their weights to 16 bit on the way to the matrix unit."""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.tuned import tuned_files

_HOST: Final = (
    "__init__.py",
    "linear/__init__.py",
    "linear/weight_only_host.py",
    "linear/weight_only_config.py",
    "linear/workspace.py",
    "linear/outputs.py",
    "linear/epilogue_kernel.py",
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


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs of NVFP4 weights by 16-bit activations."""
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
    )
