"""Specs of the linears: torch's scaled and integer GEMMs, an emulation, and the definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, Needs, SchemeOffer
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_torch.offers import (
    BLOCK128,
    E4M3,
    GROUP128,
    INT8,
    ROW,
    TENSOR,
    float_schemes,
    int_schemes,
    reads,
)
from quantmux_torch.producers import ANY_DEVICE, DTYPES
from quantmux_torch.vetoes import (
    cublas_12_9,
    no_fp32_bias,
    no_fp32_bias_and_cublas_12_9,
    sum_fits_int32,
)

if TYPE_CHECKING:
    from quantmux.config.schemes import Accumulation

_BOTH: Final[tuple[Accumulation, ...]] = ("fast", "exact")
_GRAPH: Final = frozenset({"cuda_graph"})
_COMPOSITE: Final = frozenset({"composite"})

_TOKEN: Final = reads(E4M3, ROW, "row_major")
_TENSOR_BY_TENSOR: Final = SchemeOffer(
    weight=reads(E4M3, TENSOR, "scalar"), activation=reads(E4M3, TENSOR, "scalar")
)
_ROW_SCHEMES: Final = (
    SchemeOffer(weight=reads(E4M3, ROW, "row_major"), activation=_TOKEN),
    # one scale of the whole weight is repeated for every channel when the weights are prepared
    SchemeOffer(weight=reads(E4M3, TENSOR, "scalar"), activation=_TOKEN),
)
_INT_SCHEMES: Final = tuple(
    SchemeOffer(weight=reads(INT8, weight, weight_scales), activation=reads(INT8, block, scales))
    for weight, weight_scales in ((ROW, "row_major"), (TENSOR, "scalar"))
    for block, scales in ((ROW, "row_major"), (TENSOR, "scalar"))
)

_REFERENCE: Final = Capability(
    arch=ANY_DEVICE,
    schemes=(*float_schemes(), *int_schemes()),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=DTYPES,
    out_dtypes=DTYPES,
    takes_bias=True,
    accumulations=_BOTH,
    output_row_multiple=1,
    tags=_COMPOSITE,
    is_reference=True,
)
_EMULATED: Final = _REFERENCE.replace(
    schemes=float_schemes(),
    weight_layout="torch:dequantized",
    is_reference=False,
    compute="emulated",
)
_SCALED_MM_CPU: Final = Capability(
    arch=arch_sets("cpu"),
    schemes=(_TENSOR_BY_TENSOR, *_ROW_SCHEMES),
    in_dtypes=DTYPES,
    out_dtypes=DTYPES,
    takes_bias=True,
    accumulations=_BOTH,
    output_row_multiple=1,
    needs=(Needs(kind="package", name="torch", version=">=2.13"),),
    tags=_COMPOSITE,
    # the host has no FP8 units: torch widens the codes of the whole weight in every call
    compute="emulated",
)
_SCALED_MM_TENSOR: Final = Capability(
    arch=arch_sets("89+"),
    schemes=(_TENSOR_BY_TENSOR,),
    takes_padded_n=True,
    pad_n_to=16,
    pad_k_to=16,
    in_dtypes=DTYPES,
    out_dtypes=DTYPES,
    takes_bias=True,
    accumulations=_BOTH,
    output_row_multiple=16,
    weight_layout="torch:padded16_tensor",
    # three if the bias has more bits than the output (see scaled_mm.py)
    launches=1,
    tags=_GRAPH,
)
_SCALED_MM_ROW: Final = _SCALED_MM_TENSOR.replace(
    arch=arch_sets("90a"),
    schemes=_ROW_SCHEMES,
    takes_bias=False,
    weight_layout="torch:padded16_row",
)
# GEMM to fp32, bias, rounding: the epilogue's own bias fails at some shapes (linear_scaled_mm_row)
_SCALED_MM_ROW_BIAS: Final = _SCALED_MM_ROW.replace(
    takes_bias=True, launches=None, tags=_GRAPH | _COMPOSITE
)
_SCALED_MM_ROW_CUTLASS: Final = _SCALED_MM_ROW.replace(
    arch=arch_sets("89", "100f", "120f"),
    out_dtypes=("bf16",),
    # these kernels add a bias in bf16 only, and give no fp32 result to add another one to
    takes_bias=False,
    # torch copies the activation scales when M is not a multiple of 256
    launches=None,
    needs=(Needs(kind="package", name="torch", version=">=2.11"),),
)
_SCALED_MM_BLOCK: Final = _SCALED_MM_TENSOR.replace(
    arch=arch_sets("90a"),
    schemes=(
        SchemeOffer(
            weight=reads(E4M3, BLOCK128, "row_major"),
            activation=reads(E4M3, GROUP128, "col_major_aligned4"),
        ),
    ),
    takes_padded_m=True,
    pad_k_to=128,
    pad_m_to=4,
    weight_layout="torch:padded_block",
    needs=(Needs(kind="package", name="torch", version=">=2.11"),),
)
_INT_MM: Final = Capability(
    arch=arch_sets("80+"),
    schemes=_INT_SCHEMES,
    takes_padded_n=True,
    pad_n_to=8,
    pad_k_to=16,
    m_min=17,
    in_dtypes=DTYPES,
    out_dtypes=DTYPES,
    takes_bias=True,
    accumulations=_BOTH,
    output_row_multiple=1,
    weight_layout="torch:padded_int8",
    tags=_GRAPH | _COMPOSITE,
)
_INT_MM_SMALL_M: Final = _INT_MM.replace(m_min=1, m_max=16, takes_padded_m=True, pad_m_to=32)
_INT_MM_CPU: Final = _INT_MM.replace(
    arch=arch_sets("cpu"),
    takes_padded_n=False,
    pad_n_to=1,
    pad_k_to=1,
    m_min=1,
    weight_layout="canonical",
    tags=_COMPOSITE,
)


def consumer_specs() -> tuple[KernelSpec, ...]:
    """Give the specs of every linear kernel."""
    common = ("outputs.py", "padding.py", "devices.py", "dry_run.py")
    scaled = ("scaled_mm.py", *common)
    vetoed = ("vetoes.py", "torch_build.py")  # what a veto refuses was never run
    return (
        KernelSpec(
            id="torch/linear_reference",
            op="linear",
            capability=_REFERENCE,
            load="quantmux_torch.linear_reference:kernel",
            sources=("linear_reference.py", "padding.py", "devices.py"),
            summary="the definition: fp64 product, one rounding",
        ),
        KernelSpec(
            id="torch/linear_emulated",
            op="linear",
            capability=_EMULATED,
            load="quantmux_torch.linear_emulated:kernel",
            sources=("linear_emulated.py", "outputs.py", "devices.py"),
            summary="weights dequantized once, fp32 product",
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_cpu",
            op="linear",
            capability=_SCALED_MM_CPU,
            load="quantmux_torch.linear_scaled_mm_cpu:kernel",
            sources=("linear_scaled_mm_cpu.py", "outputs.py", "padding.py", "devices.py"),
            summary="torch._scaled_mm on the host, from one byte a weight",
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_tensor",
            op="linear",
            capability=_SCALED_MM_TENSOR,
            load="quantmux_torch.linear_scaled_mm_tensor:kernel",
            sources=("linear_scaled_mm_tensor.py", *scaled, *vetoed),
            summary="torch._scaled_mm, one scale a tensor (cuBLASLt)",
            veto=no_fp32_bias,
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_row",
            op="linear",
            capability=_SCALED_MM_ROW,
            load="quantmux_torch.linear_scaled_mm_row:kernel",
            sources=("linear_scaled_mm_row.py", *scaled, *vetoed),
            summary="torch._scaled_mm, token by channel scales (cuBLASLt 12.9)",
            veto=cublas_12_9,
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_row_bias",
            op="linear",
            capability=_SCALED_MM_ROW_BIAS,
            load="quantmux_torch.linear_scaled_mm_row:kernel",
            sources=("linear_scaled_mm_row.py", *scaled, *vetoed),
            summary="the same to fp32, then the bias and the rounding",
            veto=cublas_12_9,
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_row_cutlass",
            op="linear",
            capability=_SCALED_MM_ROW_CUTLASS,
            load="quantmux_torch.linear_scaled_mm_row:kernel",
            sources=("linear_scaled_mm_row.py", *scaled),
            summary="torch._scaled_mm, token by channel scales (torch's CUTLASS kernels)",
        ),
        KernelSpec(
            id="torch/linear_scaled_mm_block",
            op="linear",
            capability=_SCALED_MM_BLOCK,
            load="quantmux_torch.linear_scaled_mm_block:kernel",
            sources=("linear_scaled_mm_block.py", *scaled, *vetoed),
            summary="torch's scaled_mm, 1x128 by 128x128 scales (cuBLASLt 12.9)",
            veto=no_fp32_bias_and_cublas_12_9,
        ),
        KernelSpec(
            id="torch/linear_int_mm",
            op="linear",
            capability=_INT_MM,
            load="quantmux_torch.linear_int_mm:kernel",
            sources=("linear_int_mm.py", *common, *vetoed),
            summary="torch._int_mm and an fp32 epilogue",
            veto=sum_fits_int32,
        ),
        KernelSpec(
            id="torch/linear_int_mm_small_m",
            op="linear",
            capability=_INT_MM_SMALL_M,
            load="quantmux_torch.linear_int_mm:kernel",
            sources=("linear_int_mm.py", *common, *vetoed),
            summary="torch._int_mm for M up to 16, on rows padded to 32",
            veto=sum_fits_int32,
        ),
        KernelSpec(
            id="torch/linear_int_mm_cpu",
            op="linear",
            capability=_INT_MM_CPU,
            load="quantmux_torch.linear_int_mm:host_kernel",
            sources=("linear_int_mm.py", *common, *vetoed),
            summary="torch._int_mm on the host and an fp32 epilogue",
            veto=sum_fits_int32,
        ),
    )
