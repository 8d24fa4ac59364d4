"""Spec of the SiLU·mul kernel."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import Capability
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.quantize.specs import STATIC
from quantmux_flashinfer.silu_mul_quantize.entries import SILU_MUL

ROUNDED_PRODUCT: Final = 2.0**-8
"""How far its values may be from the definition's: it rounds silu(gate) · up to bf16, which is off
by 2^-9 at most, before it looks for the largest of a block; the rest is its fast exponential."""


def offers() -> tuple[Offer, ...]:
    """Give the kernel."""
    spec = KernelSpec(
        id="flashinfer/silu_mul_quantize_nvfp4",
        op="silu_mul_quantize",
        capability=Capability(
            arch=("100f", "120f"),
            produces=(STATIC,),
            # products in fp16 would overflow at 65504
            in_dtypes=("bf16",),
            launches=3,  # its own, one that inverts the global scale, one that copies it
            # never run by us: there was no such GPU at hand
            tags={"approximate", "finite_only", "experimental", "cuda_graph", "deterministic"},
            rel_tolerance=ROUNDED_PRODUCT,
        ),
        load="quantmux_flashinfer.silu_mul_quantize.nvfp4:kernel",
        sources=(
            "quantize/dry_run.py",
            "quantize/outputs.py",
            "quantize/nvfp4_outputs.py",
            "quantize/pieces.py",
            "silu_mul_quantize/entries.py",
            "silu_mul_quantize/nvfp4.py",
        ),
        summary="SiLU·mul into NVFP4 with a given global scale, by silu_and_mul_nvfp4_quantize",
    )
    return (Offer(spec, SILU_MUL),)
