"""Names of prepared weights and scale layouts belong to the plugin that defines them."""

from __future__ import annotations

import pytest

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config import operand, scheme
from quantmux.errors import PluginError
from quantmux.registry.kernel_spec import KernelSpec


def linear(weight_layout: str) -> KernelSpec:
    pair = SchemeOffer(weight=OperandOffer.of(scheme("fp8_w8a16").weight, ("row_major",)))
    capability = Capability(arch="any", schemes=(pair,), weight_layout=weight_layout)
    return KernelSpec("acme/gemm", "linear", capability, "a:b")


@pytest.mark.parametrize("name", ["canonical", "acme:tiles"])
def test_own_weight_layouts_and_the_canonical_one_are_taken(name: str) -> None:
    linear(name).check("acme")


@pytest.mark.parametrize("name", ["torch:dequantized", "tiles", ""])
def test_a_weight_layout_of_another_plugin_is_refused(name: str) -> None:
    # or its tensors would be handed to the other plugin's kernels, and theirs to its own
    with pytest.raises(PluginError, match="weight_layout"):
        linear(name).check("acme")


def test_a_relayout_into_another_plugins_layout_is_refused() -> None:
    capability = Capability(arch="any", relayouts=(("row_major", "torch:tiles"),))
    with pytest.raises(PluginError, match="belongs to another plugin"):
        KernelSpec("acme/move", "relayout", capability, "a:b").check("acme")


def test_a_producer_of_another_plugins_layout_is_refused() -> None:
    offer = OperandOffer.of(operand("fp8_token"), ("torch:tiles",))
    capability = Capability(arch="any", produces=(offer,))
    with pytest.raises(PluginError, match="belongs to another plugin"):
        KernelSpec("acme/q", "quantize", capability, "a:b").check("acme")
