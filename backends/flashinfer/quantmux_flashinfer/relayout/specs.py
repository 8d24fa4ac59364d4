"""Spec of the relayout kernel: the one function of its module that does its work on sm90, too."""

from __future__ import annotations

from quantmux.capability.capability import Capability
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer.entries import Offer
from quantmux_flashinfer.relayout.entries import INTERLEAVE
from quantmux_flashinfer.relayout.shapes import veto


def offers() -> tuple[Offer, ...]:
    """Give the kernel."""
    spec = KernelSpec(
        id="flashinfer/relayout_nvfp4",
        op="relayout",
        capability=Capability(
            arch=("90a", "100f", "110", "120f"),
            relayouts=(("row_major", "swizzled_128x4"),),
            launches=3,  # scales, codes, the global scale
            tags={"cuda_graph", "deterministic"},
        ),
        load="quantmux_flashinfer.relayout.nvfp4:kernel",
        sources=(
            "quantize/dry_run.py",
            "quantize/outputs.py",
            "relayout/entries.py",
            "relayout/nvfp4.py",
            "relayout/shapes.py",
        ),
        veto=veto,
        summary="NVFP4 scales into 128x4, by block_scale_interleave",
    )
    return (Offer(spec, INTERLEAVE),)
