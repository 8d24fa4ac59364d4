"""Spec of the RoPE kernel."""

from __future__ import annotations

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.rope_quantize.entries import ROPE
from quantmux_flashinfer.rope_quantize.shapes import veto


def offers() -> tuple[Offer, ...]:
    """Give the kernel."""
    produces = tuple(
        OperandOffer(
            element=element,
            block=Block(rows=-1, cols=-1),
            scale_modes=("static",),
            layouts=("scalar",),
        )
        for element in (ElementFormat.FP8_E4M3, ElementFormat.FP8_E5M2)
    )
    spec = KernelSpec(
        id="flashinfer/rope_quantize_fp8_tensor",
        op="rope_quantize",
        capability=Capability(
            # below sm89 there are no instructions for fp8, and it was run on sm90 only
            arch=("89", "90a", "100f", "110", "120f"),
            produces=produces,
            in_dtypes=("bf16", "fp16"),
            launches=2,  # and the scale, which a result owns
            tags={"approximate", "cuda_graph", "deterministic"},
        ),
        load="quantmux_flashinfer.rope_quantize.fp8_tensor:kernel",
        sources=(
            "quantize/dry_run.py",
            "quantize/outputs.py",
            "rope_quantize/entries.py",
            "rope_quantize/fp8_tensor.py",
            "rope_quantize/parts.py",
            "rope_quantize/shapes.py",
        ),
        veto=veto,
        summary="RoPE into FP8 with a scale of the config, by rope_quantize_fp8",
    )
    return (Offer(spec, ROPE),)
