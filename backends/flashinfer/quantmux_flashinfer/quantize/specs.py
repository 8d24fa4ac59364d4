"""Specs of the NVFP4 quantizers. Never below sm100, where they leave their output as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.quantize.nvfp4_entries import CUDA, CUTE_DSL

if TYPE_CHECKING:
    from quantmux_flashinfer.entries import Entry

STATIC: Final = OperandOffer(
    element=ElementFormat.FP4_E2M1,
    block=Block(rows=1, cols=16),
    scale_type="e4m3",
    global_scales=("static",),
    layouts=("row_major", "swizzled_128x4", "swizzled_8x4"),
)
"""NVFP4 with a given global scale, in every layout. Rows of whole blocks only: others are stored in
more columns than they have, which none of the library's functions does."""

SOURCES: Final = (
    "quantize/dry_run.py",
    "quantize/outputs.py",
    "quantize/nvfp4.py",
    "quantize/nvfp4_entries.py",
    "quantize/nvfp4_outputs.py",
    "quantize/pieces.py",
)


def offers() -> tuple[Offer, ...]:
    """Give the kernel of the CUDA sources, and that of the CuTe DSL, which needs no nvcc."""
    return (
        _offer("quantize_nvfp4", "kernel", CUDA, ("100f", "110", "120f"), launches=2),
        _offer("quantize_nvfp4_cute_dsl", "cute_dsl", CUTE_DSL, ("100f", "120f"), launches=3),
    )


def _offer(stem: str, name: str, entry: Entry, arch: tuple[str, ...], *, launches: int) -> Offer:
    """Describe one.

    Args:
        stem: Of the id.
        name: Of the object that ``load`` names.
        entry: What it calls.
        arch: Where it runs.
        launches: One of the library's, one that copies the global scale, and one that inverts it
            where the library does not.
    """
    spec = KernelSpec(
        id=f"flashinfer/{stem}",
        op="quantize",
        capability=Capability(
            arch=arch,
            produces=(STATIC,),
            in_dtypes=("bf16", "fp16"),
            launches=launches,
            # never run by us: there was no such GPU at hand
            tags={"approximate", "finite_only", "experimental", "cuda_graph", "deterministic"},
        ),
        load=f"quantmux_flashinfer.quantize.nvfp4:{name}",
        sources=SOURCES,
        summary="NVFP4 with a given global scale, by fp4_quantize",
    )
    return Offer(spec, entry)
