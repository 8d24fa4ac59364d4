"""Specs of the producers that fuse a norm or a rotation: the definition itself, on any device."""

from __future__ import annotations

from typing import Final

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_torch.offers import E4M3, E5M2, TENSOR, producer_offers
from quantmux_torch.producers import ANY_DEVICE, DTYPES

_RMSNORM: Final = Capability(
    arch=ANY_DEVICE,
    produces=producer_offers(),
    takes_padded_n=True,
    takes_padded_m=True,
    in_dtypes=DTYPES,
    tags=frozenset({"composite"}),
    is_reference=True,
)
_ROPE: Final = Capability(
    arch=ANY_DEVICE,
    produces=tuple(
        OperandOffer(element=element, block=TENSOR, scale_modes=("static",), layouts=("scalar",))
        for element in (E4M3, E5M2)
    ),
    in_dtypes=DTYPES,
    tags=frozenset({"composite"}),
    is_reference=True,
)


def fused_producer_specs() -> tuple[KernelSpec, ...]:
    """Give the specs of rmsnorm_quantize and rope_quantize."""
    return (
        KernelSpec(
            id="torch/rmsnorm_quantize",
            op="rmsnorm_quantize",
            capability=_RMSNORM,
            load="quantmux_torch.rmsnorm_quantize:kernel",
            sources=("rmsnorm_quantize.py", "devices.py"),
            summary="the reference of RMSNorm and quantization",
        ),
        KernelSpec(
            id="torch/rope_quantize",
            op="rope_quantize",
            capability=_ROPE,
            load="quantmux_torch.rope_quantize:kernel",
            sources=("rope_quantize.py", "devices.py"),
            summary="the reference of RoPE and quantization with one given scale",
        ),
    )
