"""Specs of the FP8 linears for few tokens: a stream of weights over all of the GPU."""

from __future__ import annotations

from typing import Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import FULL, Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_cutlass.linear.fp8_small_m_config import M_MAX, expected_us

_SHARED: Final = (
    "abi.py",
    "native.py",
    "units.py",
    "linear/__init__.py",
    "linear/bound.py",
    "linear/choice.py",
    "linear/consumer.py",
    "linear/layer.py",
    "linear/outputs.py",
    "linear/padding.py",
    "linear/fp8_small_m_config.py",
    "linear/fp8_small_m_cut.py",
    "linear/fp8_small_m_measured.py",
    "linear/units_small_m.py",
    "csrc/abi.cuh",
    "csrc/linear/stream.cuh",
    "csrc/linear/stream_library.cuh",
    "csrc/linear/stream_ptx.cuh",
    "csrc/linear/stream_shape.cuh",
    "csrc/linear/stream_wgmma.cuh",
    "csrc/linear/wgmma.cuh",
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
    arch=arch_sets("90a"),
    schemes=_one_scale_a_row(),
    takes_padded_n=True,
    takes_padded_m=True,
    # rows of x and of the weights are whole 16 bytes, as the TMA unit wants them
    pad_k_to=16,
    m_max=M_MAX,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16"),
    takes_bias=True,
    accumulations=("fast", "exact"),
    output_row_multiple=1,
    weight_layout="cutlass:padded_k16",
    canonical_if_aligned=True,
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
            id="cutlass/linear_fp8_small_m",
            op="linear",
            capability=_SMALL_M,
            load="quantmux_cutlass.linear.fp8_small_m:kernel",
            sources=("linear/fp8_small_m.py", "csrc/linear/fp8_stream.cu", *_SHARED),
            summary="FP8, one scale a tensor or a row; few tokens, K split in a cluster",
            estimate=expected_us,
        ),
        KernelSpec(
            id="cutlass/linear_fp8_block_small_m",
            op="linear",
            capability=_BLOCK_SMALL_M,
            load="quantmux_cutlass.linear.fp8_block_small_m:kernel",
            sources=("linear/fp8_block_small_m.py", "csrc/linear/fp8_block_stream.cu", *_SHARED),
            summary="FP8 1x128 by 128x128 scales; few tokens, K split in a cluster",
            estimate=expected_us,
        ),
    )
