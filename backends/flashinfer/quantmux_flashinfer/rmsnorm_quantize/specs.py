"""Spec of the RMSNorm kernel."""

from __future__ import annotations

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.rmsnorm_quantize.entries import RMSNORM
from quantmux_flashinfer.rmsnorm_quantize.shapes import veto


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
        id="flashinfer/rmsnorm_quantize_fp8_tensor",
        op="rmsnorm_quantize",
        capability=Capability(
            # below sm89 there are no instructions for fp8, and it was run on sm90 only
            arch=("89", "90a", "100f", "110", "120f"),
            produces=produces,
            in_dtypes=("bf16", "fp16"),
            launches=2,  # and the scale, which a result owns
            tags={"approximate", "finite_only", "cuda_graph", "deterministic"},
        ),
        load="quantmux_flashinfer.rmsnorm_quantize.fp8_tensor:kernel",
        sources=(
            "quantize/dry_run.py",
            "quantize/outputs.py",
            "rmsnorm_quantize/entries.py",
            "rmsnorm_quantize/fp8_tensor.py",
            "rmsnorm_quantize/shapes.py",
        ),
        veto=veto,
        summary="RMSNorm into FP8 with one given scale, by rmsnorm_quant",
    )
    return (Offer(spec, RMSNORM),)
