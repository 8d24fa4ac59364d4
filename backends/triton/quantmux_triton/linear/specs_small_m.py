"""Specs of the FP8 products for few tokens: a stream of weights over all of the GPU."""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.linear.estimates import few_tokens_us
from quantmux_triton.tuned import tuned_files

M_MAX: Final = 64
"""Most tokens: from there on weights are not all that is waited for."""

_SHARED: Final = (
    "linear/__init__.py",
    "linear/fp8_small_m_host.py",
    "linear/fp8_small_m_variant.py",
    "linear/fp8_small_m_config.py",
    "linear/fp8_small_m_kernel.py",
    "linear/fp8_small_m_hopper_kernel.py",
    "linear/fp8_block_small_m_kernel.py",
    "linear/epilogue_kernel.py",
    "linear/workspace.py",
    "linear/outputs.py",
    "tuned.py",
    "launcher.py",
    "interpreter.py",
    "__init__.py",
)


def _reads(block: Block, *layouts: str) -> OperandOffer:
    return OperandOffer(
        element=ElementFormat.FP8_E4M3,
        block=block,
        roundings=("none", "pow2"),
        scale_modes=("dynamic", "static"),
        layouts=layouts,
    )


def _one_scale_a_row() -> tuple[SchemeOffer, ...]:
    """Give all pairs of one scale a row and one scale in all."""
    row = _reads(Block(rows=1, cols=FULL), "row_major")
    tensor = _reads(Block(rows=FULL, cols=FULL), "scalar")
    return tuple(SchemeOffer(weight=w, activation=x) for w in (row, tensor) for x in (row, tensor))


_SMALL_M: Final = Capability(
    arch=arch_sets("89+", "cpu"),
    schemes=_one_scale_a_row(),
    takes_padded_n=True,
    takes_padded_m=True,
    m_max=M_MAX,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16", "fp32"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=1,
    launches=1,
    tags={"cuda_graph", "deterministic"},
)
_BLOCK_SMALL_M: Final = _SMALL_M.replace(
    schemes=(
        SchemeOffer(
            weight=_reads(Block(rows=128, cols=128), "row_major"),
            activation=_reads(
                Block(rows=1, cols=128), "col_major_aligned4", "col_major", "row_major"
            ),
        ),
    )
)


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs of FP8 with one scale a tensor or row, and FP8 with block scales."""
    return (
        KernelSpec(
            id="triton/linear_fp8_small_m",
            op="linear",
            capability=_SMALL_M,
            load="quantmux_triton.linear.fp8_small_m:kernel",
            sources=("linear/fp8_small_m.py", *_SHARED, *tuned_files("fp8_small_m")),
            summary="FP8, one scale a tensor or a row; few tokens, swapped operands, split K",
            estimate=few_tokens_us,
        ),
        KernelSpec(
            id="triton/linear_fp8_block_small_m",
            op="linear",
            capability=_BLOCK_SMALL_M,
            load="quantmux_triton.linear.fp8_block_small_m:kernel",
            sources=("linear/fp8_block_small_m.py", *_SHARED, *tuned_files("fp8_small_m")),
            summary="FP8 1x128 by 128x128 scales; few tokens, swapped operands, split K",
            estimate=few_tokens_us,
        ),
    )
