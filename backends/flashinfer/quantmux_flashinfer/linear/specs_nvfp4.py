"""Specs of the NVFP4 by NVFP4 linears, for Blackwell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, SchemeOffer
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.linear import nvfp4_entries as entries
from quantmux_flashinfer.linear.nvfp4_offers import (
    NVFP4,
    REL_TOLERANCE,
    SOURCES,
    UNPROVED,
    in_order,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantmux.config.formats import Dtype
    from quantmux_flashinfer.entries import Entry

_BOTH: Final[tuple[Dtype, ...]] = ("bf16", "fp16")
_TILED: Final = ("flashinfer:nvfp4_128x4", 32, 32)
_SHUFFLED: Final = ("flashinfer:nvfp4_trtllm", 128, 256)

_ORDER: Final[Mapping[int, tuple[str, ...]]] = {
    10: ("cutlass", "cudnn", "trtllm_8x4", "trtllm", "cute_dsl", "cutedsl_low_latency"),
    11: ("cutlass", "cudnn"),
    12: ("b12x", "cutlass", "cudnn", "cute_dsl_sm120"),
}
"""The library's own order, but CUTLASS before cuDNN on sm100, where users saw cuDNN slower and
worse (flashinfer-ai/flashinfer#2375). What it takes only when told to comes last. Nothing was
measured; tuning rows go before this."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What differs between the back ends.

    Attributes:
        stem: Of the id, and the name in `quantmux_flashinfer.linear.nvfp4`.
        entry: What it calls.
        archs: Where it runs; never wider than the library's decorator.
        summary: One line.
        form: Weight layout, and what N and K are padded to.
        scales: Layout of the scales of x.
        out: Formats of y.
        align: What N and K must be multiples of.
        m_max: Most rows.
        launches: With the one that makes alpha, of the kernels that the library takes untuned (a
            program that runs its tuner may get one that splits K and clears a workspace first);
            None where nobody has counted.
    """

    stem: str
    entry: Entry
    archs: tuple[str, ...]
    summary: str
    form: tuple[str, int, int] = _TILED
    scales: str = "swizzled_128x4"
    out: tuple[Dtype, ...] = _BOTH
    align: tuple[int, int] = (1, 1)
    m_max: int | None = None
    launches: int | None = 2


_KERNELS: Final = (
    _Kernel(
        "cutlass",
        entries.CUTLASS,
        ("100f", "110", "120f"),
        "NVFP4 by NVFP4, FlashInfer's CUTLASS kernels",
    ),
    # cuDNN chooses among engines, some of which launch more than once
    _Kernel(
        "cudnn",
        entries.CUDNN,
        ("100f", "110", "120f"),
        "NVFP4 by NVFP4, cuDNN through FlashInfer",
        launches=None,
    ),
    # split along K is in the cubins' metadata, which were not at hand
    _Kernel(
        "trtllm",
        entries.TRTLLM,
        ("100f",),
        "NVFP4 by NVFP4, trtllm-gen's kernels, shuffled weights",
        form=_SHUFFLED,
        out=("bf16",),
        launches=None,
    ),
    _Kernel(
        "trtllm_8x4",
        entries.TRTLLM,
        ("100f",),
        "the same for few tokens, whose scales lie in tiles of 8 rows",
        form=_SHUFFLED,
        scales="swizzled_8x4",
        out=("bf16",),
        m_max=32,
        launches=None,
    ),
    _Kernel(
        "cute_dsl",
        entries.CUTE_DSL,
        ("100f",),
        "NVFP4 by NVFP4, FlashInfer's CuTe DSL kernels",
    ),
    # the same name in the library, another kernel behind it, with other limits
    _Kernel(
        "cute_dsl_sm120",
        entries.CUTE_DSL,
        ("120f",),
        "NVFP4 by NVFP4, FlashInfer's CuTe DSL kernels for sm120",
        out=("bf16",),
        align=(64, 64),
    ),
    _Kernel(
        "cutedsl_low_latency",
        entries.CUTEDSL_LOW_LATENCY,
        ("100f",),
        "NVFP4 by NVFP4 for up to 8 tokens",
        align=(1, 64),
        m_max=8,
    ),
    _Kernel(
        "b12x",
        entries.B12X,
        ("120f",),
        "NVFP4 by NVFP4 on warp-level instructions",
    ),
)


def offers() -> tuple[Offer, ...]:
    """Give the kernels."""
    return tuple(Offer(_spec(kernel), kernel.entry) for kernel in _KERNELS)


def _spec(kernel: _Kernel) -> KernelSpec:
    weight_layout, pad_n, pad_k = kernel.form
    activation = NVFP4.replace(layouts=(kernel.scales,))
    capability = Capability(
        arch=arch_sets(*kernel.archs),
        schemes=(SchemeOffer(weight=NVFP4, activation=activation),),
        takes_padded_n=True,
        align_n=kernel.align[0],
        align_k=kernel.align[1],
        pad_n_to=pad_n,
        pad_k_to=pad_k,
        m_max=kernel.m_max,
        in_dtypes=("bf16", "fp16", "fp32"),
        out_dtypes=kernel.out,
        accumulations=("fast",),
        output_row_multiple=pad_n,
        weight_layout=weight_layout,
        launches=kernel.launches,
        # FlashInfer's own tuner captures every one of these calls in a graph
        tags=UNPROVED | {"cuda_graph"},
        rel_tolerance=REL_TOLERANCE,
    )
    return KernelSpec(
        id=f"flashinfer/linear_nvfp4_{kernel.stem}",
        op="linear",
        capability=capability,
        load=f"quantmux_flashinfer.linear.nvfp4:{kernel.stem}",
        sources=("linear/nvfp4.py", *SOURCES),
        summary=kernel.summary,
        estimate=in_order(kernel.stem, _ORDER),
    )
