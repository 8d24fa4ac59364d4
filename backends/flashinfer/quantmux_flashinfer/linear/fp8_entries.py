"""What the FP8 linears call of FlashInfer, as data.

Left out, and why: ``mm_fp8`` with backends cublas, cudnn and cutlass runs what ``bmm_fp8`` runs,
behind alpha = s_x · s_w, one launch more, and gives bf16 only. ``bmm_fp8`` with backend cute-dsl
is for sm107 alone and wants M in multiples of 16. ``gemm_fp8_nt_groupwise`` with backend cutile
compiles for every M anew and times candidates inside of the call. ``gemm_fp8_nt_blockscaled`` wants
one scale for 128 rows of x.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

_BMM: Final = "flashinfer.gemm:bmm_fp8"
_BMM_PASSED: Final = (
    "A",
    "B",
    "A_scale",
    "B_scale",
    "dtype",
    "out",
    "backend",
    "skip_check",
)
"""``skip_check`` leaves out what ``library.functions`` has asked when the layer was bound: 14 µs of
host time a call (H200, 2026-11-21)."""

CUBLAS: Final = Entry(
    function=_BMM,
    parameters=_BMM_PASSED,
    backend="cublas",
    is_gated=True,
    modules=(ModuleUse("gemm"),),
)
CUDNN: Final = Entry(
    function=_BMM,
    parameters=_BMM_PASSED,
    backend="cudnn",
    is_gated=True,
    packages=(("nvidia-cudnn-frontend", "cudnn"),),
)
CUTLASS: Final = Entry(
    function=_BMM,
    parameters=_BMM_PASSED,
    backend="cutlass",
    is_gated=True,
    modules=(ModuleUse("fp8_gemm_cutlass", ("100f", "110")), ModuleUse("gemm_sm120", ("120f",))),
)

_MM: Final = "flashinfer.gemm:mm_fp8"
_MM_PASSED: Final = ("a", "b", "alpha", "out_dtype", "out", "backend", "skip_check")

TRTLLM_LOW_LATENCY: Final = Entry(
    function=_MM,
    parameters=_MM_PASSED,
    backend="trtllm_low_latency",
    is_gated=True,
    modules=(
        ModuleUse("trtllm_low_latency_gemm", ("100", "103")),
        ModuleUse("trtllm_low_latency_gemm_sm107", ("107",)),
    ),
    cubins=True,
)
CUTEDSL_LOW_LATENCY: Final = Entry(
    function=_MM,
    parameters=_MM_PASSED,
    backend="cutedsl_low_latency",
    is_gated=True,
    packages=(("nvidia-cutlass-dsl", "cutlass"),),
)

BLOCK_SM90: Final = Entry(
    function="flashinfer.gemm:fp8_blockscale_gemm_sm90",
    parameters=("input", "weight", "input_scale", "weight_scale", "out"),
    modules=(ModuleUse("fp8_blockscale_gemm_90"),),
)
BLOCK_SM90_INSIDE: Final = Entry(
    function="flashinfer.gemm:fp8_blockscale_gemm_sm90",
    parameters=("input", "weight", "input_scale", "weight_scale", "out"),
    modules=(ModuleUse("fp8_blockscale_gemm_90"),),
)

_GROUPWISE: Final = "flashinfer.gemm:gemm_fp8_nt_groupwise"

GROUPWISE_CUTLASS: Final = Entry(
    function=_GROUPWISE,
    parameters=(
        "a",
        "b",
        "a_scale",
        "b_scale",
        "scale_major_mode",
        "out",
        "backend",
        "skip_check",
    ),
    backend="cutlass",
    is_gated=True,
    modules=(ModuleUse("gemm_sm100", ("100f",)), ModuleUse("gemm_sm120", ("120f",))),
)
GROUPWISE_TRTLLM: Final = Entry(
    function=_GROUPWISE,
    parameters=("a", "b", "a_scale", "b_scale", "out", "backend", "skip_check"),
    backend="trtllm",
    is_gated=True,
    modules=(
        ModuleUse("trtllm_gemm", ("100", "103")),
        ModuleUse("trtllm_gemm_sm107", ("107",)),
    ),
    cubins=True,
)
