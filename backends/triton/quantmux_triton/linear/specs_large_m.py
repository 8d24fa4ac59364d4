"""Specs of the products that serve every M and are made for many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.linear.estimates import many_tokens_us
from quantmux_triton.tuned import tuned_files

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

_MAX_INT8_K: Final = (2**31 - 1) // 127**2
"""Longest row whose int8 products cannot overflow an int32 sum."""

_SHARED: Final = (
    "linear/__init__.py",
    "linear/fp8_host.py",
    "linear/fp8_variant.py",
    "linear/outputs.py",
    "linear/fp8_hopper.py",
    "linear/fp8_hopper_kernel.py",
    "linear/fp8_config.py",
    "linear/fp8_tiles.py",
    "tuned.py",
    "linear/fp8_kernel.py",
    "linear/fp8_block_kernel.py",
    "launcher.py",
    "interpreter.py",
    "__init__.py",
)


def _reads(element: ElementFormat, block: Block, *layouts: str) -> OperandOffer:
    return OperandOffer(
        element=element,
        block=block,
        roundings=("none", "pow2") if element == ElementFormat.FP8_E4M3 else ("none",),
        scale_modes=("dynamic", "static"),
        layouts=layouts,
    )


def _one_scale_a_row(element: ElementFormat) -> tuple[SchemeOffer, ...]:
    """Give all pairs of one scale a row and one scale in all."""
    row = _reads(element, Block(rows=1, cols=FULL), "row_major")
    tensor = _reads(element, Block(rows=FULL, cols=FULL), "scalar")
    return tuple(SchemeOffer(weight=w, activation=x) for w in (row, tensor) for x in (row, tensor))


_FP8: Final = Capability(
    arch=arch_sets("89+", "cpu"),
    schemes=_one_scale_a_row(ElementFormat.FP8_E4M3),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16", "fp32"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=1,
    launches=1,
    tags={"cuda_graph", "deterministic"},
)
_FP8_BLOCK: Final = _FP8.replace(
    schemes=(
        SchemeOffer(
            weight=_reads(ElementFormat.FP8_E4M3, Block(rows=128, cols=128), "row_major"),
            activation=_reads(
                ElementFormat.FP8_E4M3,
                Block(rows=1, cols=128),
                "col_major_aligned4",
                "col_major",
                "row_major",
            ),
        ),
    )
)
_INT8: Final = _FP8.replace(
    arch=arch_sets("80+", "cpu"), schemes=_one_scale_a_row(ElementFormat.INT8)
)


def _sum_fits_int32(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a K for which the int32 sum could overflow."""
    del device
    if config.op != "linear" or config.k <= _MAX_INT8_K:
        return None
    return Rejection(
        code=RejectionCode.ALIGN_K,
        field="in_features",
        required=f"at most {_MAX_INT8_K}, so that the int32 sum cannot overflow",
        actual=str(config.k),
    )


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs of FP8 with one scale a row, FP8 with block scales, and INT8."""
    return (
        KernelSpec(
            id="triton/linear_fp8",
            op="linear",
            capability=_FP8,
            load="quantmux_triton.linear.fp8:kernel",
            sources=("linear/fp8.py", *_SHARED, *tuned_files("fp8")),
            summary="FP8, one scale a tensor or a row; persistent, by TMA",
            estimate=many_tokens_us,
        ),
        KernelSpec(
            id="triton/linear_fp8_block",
            op="linear",
            capability=_FP8_BLOCK,
            load="quantmux_triton.linear.fp8_block:kernel",
            sources=(
                "linear/fp8_block.py",
                "linear/fp8_block_config.py",
                *_SHARED,
                *tuned_files("fp8_block"),
            ),
            summary="FP8 1x128 by 128x128 scales, promoted every 128 of K; persistent, by TMA",
            estimate=many_tokens_us,
        ),
        KernelSpec(
            id="triton/linear_int8",
            op="linear",
            capability=_INT8,
            load="quantmux_triton.linear.int8:kernel",
            sources=(
                "linear/int8.py",
                "linear/int8_config.py",
                "linear/specs_large_m.py",
                "linear/estimates.py",
                *_SHARED,
                *tuned_files("int8"),
            ),
            summary="INT8 with an int32 sum; persistent, by TMA",
            veto=_sum_fits_int32,
        ),
    )
