"""Specs of the producers and of the relayout: the definition itself, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux.capability.arch import arch_sets
from quantmux.capability.capability import Capability
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_torch.offers import inverse_rope_offers, producer_offers

if TYPE_CHECKING:
    from quantmux.config.formats import Dtype

DTYPES: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp32")
"""Plain formats that torch computes with everywhere."""

ANY_DEVICE: Final = arch_sets("any")

_QUANTIZE: Final = Capability(
    arch=ANY_DEVICE,
    produces=producer_offers(),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=DTYPES,
    tags=frozenset({"composite"}),
    is_reference=True,
)
_INVERSE_ROPE: Final = _QUANTIZE.replace(
    produces=inverse_rope_offers(), takes_padded_n=False, takes_padded_m=False
)
_RELAYOUT: Final = Capability(
    arch=ANY_DEVICE,
    relayouts=(("*", "*"),),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=DTYPES,
    tags=frozenset({"composite"}),
    is_reference=True,
)


def producer_specs() -> tuple[KernelSpec, ...]:
    """Give the specs of quantize, silu_mul_quantize, inverse_rope_quantize and relayout."""
    return (
        KernelSpec(
            id="torch/quantize",
            op="quantize",
            capability=_QUANTIZE,
            load="quantmux_torch.quantize:kernel",
            sources=("quantize.py", "reference_producer.py", "devices.py"),
            summary="the reference quantizer: every operand and layout",
        ),
        KernelSpec(
            id="torch/silu_mul_quantize",
            op="silu_mul_quantize",
            capability=_QUANTIZE,
            load="quantmux_torch.silu_mul_quantize:kernel",
            sources=("silu_mul_quantize.py", "reference_producer.py", "devices.py"),
            summary="the reference of silu(gate)·up and quantization",
        ),
        KernelSpec(
            id="torch/inverse_rope_quantize",
            op="inverse_rope_quantize",
            capability=_INVERSE_ROPE,
            load="quantmux_torch.inverse_rope_quantize:kernel",
            sources=("inverse_rope_quantize.py", "devices.py"),
            summary="the reference of inverse RoPE and quantization per head group",
        ),
        KernelSpec(
            id="torch/relayout",
            op="relayout",
            capability=_RELAYOUT,
            load="quantmux_torch.relayout:kernel",
            sources=("relayout.py", "devices.py"),
            summary="every layout into every other one of the same operand",
        ),
    )
