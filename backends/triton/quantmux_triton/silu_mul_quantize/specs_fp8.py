"""Specs of SiLU·mul into FP8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec

if TYPE_CHECKING:
    from quantmux.config.formats import Dtype

_ARCH: Final = arch_sets("cpu", "80+")
_DTYPES: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp32")
_TAGS: Final = frozenset({"cuda_graph", "deterministic"})
_BY_GROUP: Final = ("row_major", "col_major", "col_major_aligned4")
_SHARED: Final = (
    "arithmetic.py",
    "interpreter.py",
    "launcher.py",
    "numerics_kernel.py",
    "quantize/outputs.py",
    "quantize/producer.py",
    "quantize/variants.py",
    "silu_mul_quantize/producer.py",
    "silu_mul_quantize/silu_kernel.py",
)

_GROUP: Final = Capability(
    arch=_ARCH,
    produces=(
        *(
            OperandOffer(
                element=ElementFormat.FP8_E4M3,
                block=Block(rows=1, cols=cols),
                roundings=(rounding,),
                layouts=(*_BY_GROUP, "packed_pow2") if rounding == "pow2" else _BY_GROUP,
            )
            for cols in (128, 64, 32, 16, 256)
            for rounding in ("none", "pow2")
        ),
        *(
            OperandOffer(
                element=ElementFormat.FP8_E5M2, block=Block(rows=1, cols=cols), layouts=_BY_GROUP
            )
            for cols in (128, 64)
        ),
    ),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=_DTYPES,
    launches=1,
    tags=_TAGS,
)


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs."""
    return (
        KernelSpec(
            id="triton/silu_mul_quantize_fp8_group",
            op="silu_mul_quantize",
            capability=_GROUP,
            load="quantmux_triton.silu_mul_quantize.fp8_group:kernel",
            sources=(
                "silu_mul_quantize/fp8_group.py",
                "silu_mul_quantize/fp8_group_kernel.py",
                "silu_mul_quantize/fp8_group_config.py",
                "quantize/fp8_group_config.py",
                "quantize/group_scales_kernel.py",
                *_SHARED,
            ),
            summary="silu(gate)·up into fp8 with a scale per group of columns, in every layout",
        ),
    )
