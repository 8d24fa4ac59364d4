"""Specs of the weight-only NVFP4 linears, for Blackwell: plain bf16 by NVFP4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, Needs, SchemeOffer
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

_ORDER: Final[Mapping[int, tuple[str, ...]]] = {
    10: ("blackwell_native", "cute_dsl", "blackwell_tiled", "cudnn"),
    12: ("cute_dsl", "cute_dsl_native", "cudnn"),
}
"""Those that keep the weights' bytes first; cuDNN last, which wants a very new release (9.23.1).
Nothing was measured."""

_COMPILERS: Final = (
    Needs(kind="tool", name="nvcc", install="install the CUDA toolkit"),
    Needs(kind="tool", name="ninja", install="pip install ninja"),
)
"""The source-built kernels have names that are hashes, another set in every release: the library
compiles them itself in the first call of a kind, and `warmup` makes that call."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What differs between the back ends.

    Attributes:
        stem: Of the id, and the name in `quantmux_flashinfer.linear.nvfp4_w4a16`.
        entry: What it calls.
        archs: Where it runs; never wider than the library's decorator.
        summary: One line.
        form: Weight layout, and what N is padded to.
        align_k: What K must be a multiple of: x cannot be padded.
        out: Formats of y.
        m_max: Most rows.
        tags: Beside ``experimental``.
        needs: Tools.
    """

    stem: str
    entry: Entry
    archs: tuple[str, ...]
    summary: str
    form: tuple[str, int]
    align_k: int
    out: tuple[Dtype, ...] = ("bf16",)
    m_max: int | None = None
    tags: tuple[str, ...] = ()
    needs: tuple[Needs, ...] = ()


_KERNELS: Final = (
    _Kernel(
        "cudnn",
        entries.W4A16_CUDNN,
        ("100f", "110", "120f"),
        "bf16 by NVFP4, cuDNN through FlashInfer",
        form=("flashinfer:nvfp4_w4a16_cudnn", 32),
        align_k=32,
        out=("bf16", "fp16"),
    ),
    # the library's decorator names sm110 too, where its preparation raises
    _Kernel(
        "cute_dsl",
        entries.W4A16_CUTE_DSL,
        ("100f", "120f"),
        "bf16 by NVFP4, FlashInfer's CuTe DSL kernels",
        form=("flashinfer:nvfp4_w4a16_cute_dsl", 64),
        align_k=64,
    ),
    # it compiles a kernel for each M: more of them than 16 is more than a server can wait for
    _Kernel(
        "cute_dsl_native",
        entries.W4A16_CUTE_DSL_NATIVE,
        ("120f",),
        "bf16 by NVFP4 weights as NVFP4 kernels read them, for up to 16 tokens",
        form=("flashinfer:nvfp4_128x4", 32),
        align_k=32,
        out=("bf16", "fp16"),
        m_max=16,
        tags=("cuda_graph",),
    ),
    _Kernel(
        "blackwell_native",
        entries.W4A16_BLACKWELL_NATIVE,
        ("100", "103"),
        "bf16 by NVFP4, kernels that FlashInfer ships as sources",
        form=("flashinfer:nvfp4_w4a16_blackwell_native", 64),
        align_k=16,
        out=("bf16", "fp16"),
        tags=("cuda_graph",),
        needs=_COMPILERS,
    ),
    _Kernel(
        "blackwell_tiled",
        entries.W4A16_BLACKWELL_TILED,
        ("100", "103"),
        "the same on repacked weights",
        form=("flashinfer:nvfp4_w4a16_blackwell_tiled", 64),
        align_k=16,
        tags=("cuda_graph",),
        needs=_COMPILERS,
    ),
)


def offers() -> tuple[Offer, ...]:
    """Give the kernels."""
    return tuple(Offer(_spec(kernel), kernel.entry) for kernel in _KERNELS)


def _spec(kernel: _Kernel) -> KernelSpec:
    weight_layout, pad_n = kernel.form
    tiled_k = 32 if weight_layout == "flashinfer:nvfp4_128x4" else 1
    capability = Capability(
        arch=arch_sets(*kernel.archs),
        schemes=(SchemeOffer(weight=NVFP4),),
        align_k=kernel.align_k,
        pad_n_to=pad_n,
        pad_k_to=tiled_k,
        m_max=kernel.m_max,
        in_dtypes=("bf16",),
        out_dtypes=kernel.out,
        accumulations=("fast",),
        output_row_multiple=pad_n,
        weight_layout=weight_layout,
        launches=None,  # they split K into a second launch by shapes and rules of their own
        needs=kernel.needs,
        tags=UNPROVED | set(kernel.tags),
        rel_tolerance=REL_TOLERANCE,
    )
    return KernelSpec(
        id=f"flashinfer/linear_nvfp4_w4a16_{kernel.stem}",
        op="linear",
        capability=capability,
        load=f"quantmux_flashinfer.linear.nvfp4_w4a16:{kernel.stem}",
        sources=("linear/nvfp4_w4a16.py", *SOURCES),
        summary=kernel.summary,
        estimate=in_order(kernel.stem, _ORDER),
    )
