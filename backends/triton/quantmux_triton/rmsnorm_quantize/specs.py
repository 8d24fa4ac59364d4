"""Specs of RMSNorm into FP8 and INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec

if TYPE_CHECKING:
    from quantmux.config.formats import Dtype

_DTYPES: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp32")
_BY_GROUP: Final = ("row_major", "col_major", "col_major_aligned4")
_SHARED: Final = (
    "arithmetic.py",
    "interpreter.py",
    "launcher.py",
    "numerics_kernel.py",
    "quantize/outputs.py",
    "quantize/producer.py",
    "quantize/variants.py",
    "rmsnorm_quantize/norm_kernel.py",
    "rmsnorm_quantize/producer.py",
    "rmsnorm_quantize/tiles_config.py",
    "silu_mul_quantize/product_kernel.py",
    "silu_mul_quantize/silu_kernel.py",
)
_ROW_SOURCES: Final = ("rmsnorm_quantize/row.py", "rmsnorm_quantize/row_kernel.py", *_SHARED)
_E4M3: Final = ElementFormat.FP8_E4M3
_E5M2: Final = ElementFormat.FP8_E5M2
_INT8: Final = ElementFormat.INT8
_ROW: Final = Block(rows=1, cols=FULL)
_WHOLE: Final = Block(rows=FULL, cols=FULL)

_GROUP: Final = Capability(
    arch=arch_sets("cpu", "80+", "gfx942", "gfx950"),
    produces=(
        *(
            OperandOffer(
                element=_E4M3,
                block=Block(rows=1, cols=cols),
                roundings=(rounding,),
                layouts=(*_BY_GROUP, "packed_pow2") if rounding == "pow2" else _BY_GROUP,
            )
            for cols in (128, 64, 32, 16, 256)
            for rounding in ("none", "pow2")
        ),
        *(
            OperandOffer(element=_E5M2, block=Block(rows=1, cols=cols), layouts=_BY_GROUP)
            for cols in (128, 64)
        ),
    ),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=_DTYPES,
    launches=1,
    tags=frozenset({"cuda_graph", "deterministic"}),
)
_TOKEN: Final = _GROUP.replace(
    produces=(
        OperandOffer(element=_E4M3, block=_ROW, roundings=("none", "pow2"), layouts=("row_major",)),
        OperandOffer(element=_E5M2, block=_ROW, layouts=("row_major",)),
        OperandOffer(element=_INT8, block=_ROW, layouts=("row_major",)),
    )
)
_TENSOR_STATIC: Final = _GROUP.replace(
    produces=(
        OperandOffer(
            element=_E4M3,
            block=_WHOLE,
            roundings=("none", "pow2"),
            scale_modes=("static",),
            layouts=("scalar",),
        ),
        *(
            OperandOffer(
                element=element, block=_WHOLE, scale_modes=("static",), layouts=("scalar",)
            )
            for element in (_E5M2, _INT8)
        ),
    )
)


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs."""
    return (
        KernelSpec(
            id="triton/rmsnorm_quantize_fp8_group",
            op="rmsnorm_quantize",
            capability=_GROUP,
            load="quantmux_triton.rmsnorm_quantize.fp8_group:kernel",
            sources=(
                "rmsnorm_quantize/fp8_group.py",
                "rmsnorm_quantize/fp8_group_kernel.py",
                "quantize/group_scales_kernel.py",
                "silu_mul_quantize/scale_host.py",
                "silu_mul_quantize/scale_kernel.py",
                *_SHARED,
            ),
            summary="RMSNorm into fp8 with a scale per group of columns, in every layout",
        ),
        KernelSpec(
            id="triton/rmsnorm_quantize_token",
            op="rmsnorm_quantize",
            capability=_TOKEN,
            load="quantmux_triton.rmsnorm_quantize.row:kernel",
            sources=_ROW_SOURCES,
            summary="RMSNorm into fp8 or int8 with a scale a row",
        ),
        KernelSpec(
            id="triton/rmsnorm_quantize_tensor_static",
            op="rmsnorm_quantize",
            capability=_TENSOR_STATIC,
            load="quantmux_triton.rmsnorm_quantize.row:kernel",
            sources=_ROW_SOURCES,
            summary="RMSNorm into fp8 or int8 with one scale, given",
        ),
    )
