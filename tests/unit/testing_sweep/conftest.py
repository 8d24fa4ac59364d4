"""A plugin whose kernels compile ahead, built by each test from the kernels it needs."""

import importlib
import sys
from pathlib import Path

import pytest

from quantmux.capability.capability import Capability, OperandOffer
from quantmux.config import operand
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry

AHEAD = Path(__file__).with_name("ahead")
MODULE = "quantmux_test_ahead_kernels"


class Plugin:
    __name__ = "ahead"

    def __init__(self, specs):
        self._specs = specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="ahead", version="1.0")

    @hookimpl
    def quantmux_kernels(self):
        return self._specs


@pytest.fixture
def ahead(monkeypatch):
    """The module of the kernels."""
    monkeypatch.syspath_prepend(str(AHEAD))
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def registry_of(ahead):
    """Give a registry: stem → (attribute of the module, architectures)."""
    del ahead
    token = OperandOffer.of(operand("fp8_token"), ("row_major",))

    def build(kernels, **capability):
        fields = {"takes_padded_n": True, "takes_padded_m": True, "launches": 1, **capability}
        specs = [
            KernelSpec(
                id=f"ahead/{stem}",
                op="quantize",
                load=f"{MODULE}:{attribute}",
                capability=Capability(arch=arch, produces=(token,), **fields),
            )
            for stem, (attribute, arch) in kernels.items()
        ]
        return Registry.of({"ahead": Plugin(specs)})

    return build
