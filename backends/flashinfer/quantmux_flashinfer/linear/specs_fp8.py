"""Specs of the FP8 linears with one scale a tensor."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import Capability
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.linear import fp8_entries
from quantmux_flashinfer.linear.fp8_expected import LAUNCH_US, tensor_us
from quantmux_flashinfer.linear.fp8_schemes import TENSOR, TENSOR_MIXED
from quantmux_flashinfer.linear.fp8_vetoes import own_cublas_handle

SHARED: Final = (
    "linear/call_order.py",
    "linear/dry_run.py",
    "linear/fp8_entries.py",
    "linear/fp8_inputs.py",
    "linear/fp8_weights.py",
    "linear/outputs.py",
)
"""Files that every FP8 linear runs through."""

_SOURCES: Final = ("linear/fp8_tensor.py", *SHARED)

_CUBLAS: Final = Capability(
    arch=("89", "90a", "100f", "110", "120f"),
    schemes=TENSOR_MIXED,
    takes_padded_n=True,
    pad_n_to=16,
    pad_k_to=16,
    in_dtypes=("bf16", "fp16", "fp32"),
    out_dtypes=("bf16", "fp16"),
    # it sets cuBLASLt's flag for the short accumulator, and nothing unsets it
    accumulations=("fast",),
    output_row_multiple=16,
    weight_layout="flashinfer:padded16",
    canonical_if_aligned=True,
    launches=1,
    tags={"cuda_graph"},
)
_CUDNN: Final = _CUBLAS.replace(
    # not 120f, where it was seen to fault after the call had returned (flashinfer #3566, #4165)
    arch=_CUBLAS.arch[:-1],
    schemes=TENSOR,
)
_CUTLASS: Final = _CUBLAS.replace(
    arch=_CUBLAS.arch[2:-1],
    schemes=TENSOR,
    tags={"cuda_graph", "experimental"},
)
_CUTLASS_SM12X: Final = _CUTLASS.replace(
    arch=_CUBLAS.arch[-1:],
    pad_n_to=128,
    pad_k_to=128,
    output_row_multiple=128,
    weight_layout="flashinfer:padded128",
    # both scales are spread over blocks first; without the pads it would copy the weights as well
    launches=3,
)
_TRTLLM: Final = _CUTLASS_SM12X.replace(
    arch=_CUBLAS.arch[2:3],
    out_dtypes=("bf16",),
    weight_layout="flashinfer:fp8_trtllm_panels",
    canonical_if_aligned=False,
    launches=2,
)
_CUTEDSL: Final = _CUTLASS_SM12X.replace(
    arch=_CUBLAS.arch[2:3], out_dtypes=("bf16",), m_max=8, launches=3
)


def offers() -> tuple[Offer, ...]:
    """Give ``bmm_fp8`` by back end, and the low-latency kernels of ``mm_fp8``."""
    vetoed = ("linear/fp8_vetoes.py", *_SOURCES)
    low_latency = ("linear/fp8_low_latency.py", *_SOURCES)
    tensor = "quantmux_flashinfer.linear.fp8_tensor"
    return (
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_bmm_cublas",
                op="linear",
                capability=_CUBLAS,
                load=f"{tensor}:cublas",
                sources=vetoed,
                summary="FP8, one scale a tensor; bmm_fp8 of FlashInfer (cuBLASLt)",
                veto=own_cublas_handle,
                estimate=tensor_us(),
            ),
            fp8_entries.CUBLAS,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_bmm_cudnn",
                op="linear",
                capability=_CUDNN,
                load=f"{tensor}:cudnn",
                sources=_SOURCES,
                summary="FP8, one scale a tensor; bmm_fp8 of FlashInfer (cuDNN)",
                estimate=tensor_us(factor=1.02),
            ),
            fp8_entries.CUDNN,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_bmm_cutlass",
                op="linear",
                capability=_CUTLASS,
                load=f"{tensor}:cutlass",
                sources=_SOURCES,
                summary="FP8, one scale a tensor; bmm_fp8 of FlashInfer (CUTLASS for sm10x, sm110)",
                estimate=tensor_us(),
            ),
            fp8_entries.CUTLASS,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_bmm_cutlass_sm12x",
                op="linear",
                capability=_CUTLASS_SM12X,
                load=f"{tensor}:cutlass_sm12x",
                sources=_SOURCES,
                summary="FP8, one scale a tensor; bmm_fp8 of FlashInfer (block-scaled CUTLASS)",
                estimate=tensor_us(extra=2 * LAUNCH_US),
            ),
            fp8_entries.CUTLASS,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_mm_trtllm_low_latency",
                op="linear",
                capability=_TRTLLM,
                load="quantmux_flashinfer.linear.fp8_low_latency:trtllm",
                sources=low_latency,
                summary="FP8, one scale a tensor, few tokens; mm_fp8 of FlashInfer (TensorRT-LLM)",
                estimate=tensor_us(extra=LAUNCH_US),
            ),
            fp8_entries.TRTLLM_LOW_LATENCY,
        ),
        Offer(
            KernelSpec(
                id="flashinfer/linear_fp8_mm_cutedsl_low_latency",
                op="linear",
                capability=_CUTEDSL,
                load="quantmux_flashinfer.linear.fp8_low_latency:cutedsl",
                sources=low_latency,
                summary="FP8, one scale a tensor, M up to 8; mm_fp8 of FlashInfer (CuTe DSL)",
                estimate=tensor_us(extra=2 * LAUNCH_US),
            ),
            fp8_entries.CUTEDSL_LOW_LATENCY,
        ),
    )
