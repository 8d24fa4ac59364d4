"""Specs of the block-scaled FP8 linears."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import Capability
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.linear import fp8_entries
from quantmux_flashinfer.linear.fp8_expected import block_us, inside_us
from quantmux_flashinfer.linear.fp8_schemes import BLOCK, BLOCK_INSIDE
from quantmux_flashinfer.linear.specs_fp8 import SHARED

_SM90_SOURCES: Final = ("linear/fp8_block_sm90.py", *SHARED)
_GROUPWISE_SOURCES: Final = (
    "linear/fp8_block_groupwise.py",
    "linear/fp8_tensor.py",
    *SHARED,
)

_SM90: Final = Capability(
    arch="90a",
    schemes=BLOCK,
    takes_padded_n=True,
    pad_n_to=64,
    pad_k_to=128,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16",),
    # sums of 128 of K are promoted to fp32
    accumulations=("fast", "exact"),
    output_row_multiple=64,
    weight_layout="flashinfer:padded_n64_k128",
    canonical_if_aligned=True,
    launches=1,
    tags={"cuda_graph", "deterministic"},
)
_INSIDE: Final = _SM90.replace(
    schemes=BLOCK_INSIDE,
    # a plain x cannot be padded, and the library quantizes whole groups
    align_k=128,
    pad_k_to=1,
    takes_padded_n=False,
    in_dtypes=("bf16",),
    # its quantizer's kernel and the product
    launches=2,
    # 0.012 was the largest seen (H200, 2026-11-21, 5 shapes, M from 1 to 4096); see fp8_block_sm90
    rel_tolerance=0.02,
)
_GROUPWISE: Final = _SM90.replace(
    arch=("100f", "120f"),
    takes_padded_m=True,
    pad_n_to=128,
    pad_m_to=4,
    out_dtypes=("bf16", "fp16"),
    output_row_multiple=128,
    weight_layout="flashinfer:padded128",
    tags={"cuda_graph", "experimental"},
)
_CUTLASS: Final = _GROUPWISE.replace(
    arch=_GROUPWISE.arch[:1],
    # at 32 rows and fewer it takes a kernel of its own, which others report to give other results
    # from run to run
    m_min=33,
)
_CUTLASS_SM12X: Final = _GROUPWISE.replace(arch=_GROUPWISE.arch[1:])
_TRTLLM: Final = _GROUPWISE.replace(
    arch=_GROUPWISE.arch[:1],
    # it refuses K < 256
    pad_k_to=256,
    out_dtypes=("bf16",),
    weight_layout="flashinfer:padded_n128_k256",
)


def offers() -> tuple[Offer, ...]:
    """Give DeepGEMM's two forms on Hopper, and ``gemm_fp8_nt_groupwise`` by back end."""
    sm90 = "quantmux_flashinfer.linear.fp8_block_sm90"
    groupwise = "quantmux_flashinfer.linear.fp8_block_groupwise"
    return (
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_block_sm90",
                op="linear",
                capability=_SM90,
                load=f"{sm90}:kernel",
                sources=_SM90_SOURCES,
                summary="FP8 1x128 by 128x128 scales; DeepGEMM; 1-3 s of nvcc for a new tile",
                estimate=block_us(),
            ),
            fp8_entries.BLOCK_SM90,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_block_sm90_inside",
                op="linear",
                capability=_INSIDE,
                load=f"{sm90}:inside",
                sources=_SM90_SOURCES,
                summary="the same of a plain bf16 x, which it quantizes itself",
                estimate=inside_us,
            ),
            fp8_entries.BLOCK_SM90_INSIDE,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_block_cutlass",
                op="linear",
                capability=_CUTLASS,
                load=f"{groupwise}:cutlass",
                sources=_GROUPWISE_SOURCES,
                summary="FP8 1x128 by 128x128 scales; gemm_fp8_nt_groupwise (CUTLASS, sm10x)",
                estimate=block_us(),
            ),
            fp8_entries.GROUPWISE_CUTLASS,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_block_cutlass_sm12x",
                op="linear",
                capability=_CUTLASS_SM12X,
                load=f"{groupwise}:cutlass",
                sources=_GROUPWISE_SOURCES,
                summary="FP8 1x128 by 128x128 scales; gemm_fp8_nt_groupwise (CUTLASS, sm12x)",
                estimate=block_us(),
            ),
            fp8_entries.GROUPWISE_CUTLASS,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_block_trtllm",
                op="linear",
                capability=_TRTLLM,
                load=f"{groupwise}:trtllm",
                sources=_GROUPWISE_SOURCES,
                summary="FP8 1x128 by 128x128 scales; gemm_fp8_nt_groupwise (TensorRT-LLM)",
                estimate=block_us(),
            ),
            fp8_entries.GROUPWISE_TRTLLM,
        ),
    )
