"""Spec of inverse RoPE and quantization."""

from __future__ import annotations

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config.formats import ElementFormat
from quantmux.config.operands import Block
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_triton.tuned import tuned_files


def specs() -> tuple[KernelSpec, ...]:
    """Give the specs."""
    return (
        KernelSpec(
            id="triton/inverse_rope_quantize",
            op="inverse_rope_quantize",
            capability=Capability(
                arch=arch_sets("cpu", "80+", "gfx942", "gfx950"),
                produces=tuple(
                    OperandOffer(
                        element=ElementFormat.FP8_E4M3,
                        block=Block(rows=1, cols=cols),
                        roundings=("pow2",),
                        layouts=("col_major_aligned4", "packed_pow2"),
                    )
                    for cols in (128, 64, 32, 16, 256)
                ),
                in_dtypes=("bf16", "fp16", "fp32"),
                launches=1,
                tags=frozenset({"cuda_graph", "deterministic"}),
            ),
            load="quantmux_triton.inverse_rope_quantize.tokens:kernel",
            sources=(
                "inverse_rope_quantize/tokens.py",
                "inverse_rope_quantize/tokens_kernel.py",
                "inverse_rope_quantize/tokens_config.py",
                "inverse_rope_quantize/inputs.py",
                "inverse_rope_quantize/outputs.py",
                "arithmetic.py",
                "interpreter.py",
                "launcher.py",
                "numerics_kernel.py",
                "tuned.py",
                *tuned_files("inverse_rope_quantize"),
                "quantize/outputs.py",
                "quantize/producer.py",
                "quantize/variants.py",
                "silu_mul_quantize/scale_host.py",
                "silu_mul_quantize/scale_kernel.py",
            ),
            summary="heads rotated back and quantized, whatever the number of tokens",
        ),
    )
