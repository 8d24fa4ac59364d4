"""Kernels made of data alone: dispatch never loads one, so none of these can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.profiles import PROFILES
from quantmux.config import LayerConfig, operand, scheme
from quantmux.config.settings import Settings
from quantmux.dispatch import Inventory, Selection, survey
from quantmux.registry.kernel_spec import KernelSpec

Make = Callable[..., KernelSpec]


@pytest.fixture
def producer() -> Make:
    """Build a quantize kernel of one operand preset."""

    def make(
        kernel_id: str,
        operand_name: str,
        layouts: tuple[str, ...],
        *,
        offer: dict[str, Any] | None = None,
        **capability: Any,
    ) -> KernelSpec:
        produces = (OperandOffer.of(operand(operand_name), layouts, **(offer or {})),)
        fields = {"arch": "any", "takes_padded_n": True, "takes_padded_m": True, **capability}
        return KernelSpec(
            kernel_id, "quantize", Capability(produces=produces, **fields), "nowhere:nothing"
        )

    return make


@pytest.fixture
def consumer() -> Make:
    """Build a linear kernel of one scheme preset; ``layouts`` None reads plain activations."""

    def make(
        kernel_id: str,
        scheme_name: str,
        layouts: tuple[str, ...] | None,
        *,
        estimate: Any = None,
        veto: Any = None,
        inside: bool = False,
        offer: dict[str, Any] | None = None,
        **capability: Any,
    ) -> KernelSpec:
        found = scheme(scheme_name)
        weight = OperandOffer.of(found.weight, ("row_major",))
        activation = None
        if layouts is not None and found.activation is not None:
            activation = OperandOffer.of(found.activation, layouts, **(offer or {}))
        pair = SchemeOffer(weight=weight, activation=activation, quantizes_inside=inside)
        fields = {"arch": "any", "takes_bias": True, **capability}
        return KernelSpec(
            kernel_id,
            "linear",
            Capability(schemes=(pair,), **fields),
            "nowhere:nothing",
            estimate=estimate,
            veto=veto,
        )

    return make


@pytest.fixture
def ask() -> Callable[..., Selection]:
    """Survey a config over the given kernels."""

    def run(
        config: LayerConfig,
        *kernels: KernelSpec,
        device: str = "h200",
        m: int | None = None,
        inventory: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Selection:
        order = settings.pop("order", ("cutlass", "flashinfer", "triton", "torch"))
        stock = Inventory(kernels=kernels, **(inventory or {}))
        return survey(config, PROFILES[device], Settings(order=order, **settings), stock, m)

    return run
