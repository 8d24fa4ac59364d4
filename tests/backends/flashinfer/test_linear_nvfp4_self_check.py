"""The self-check at first use over the NVFP4 linears: what protects users, since nobody here has a
Blackwell GPU. The library is a stand-in on the host, right first, then with faults that users met.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.backends.flashinfer.fp4_fake import FakeLibrary

import quantmux as qm
from quantmux.capability.arch import arch_sets
from quantmux.registry.default import set_default_registry
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux_flashinfer.library import functions
from quantmux_flashinfer.linear import specs_nvfp4, specs_nvfp4_w4a16
from quantmux_torch import plugin as torch_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECS = tuple(o.spec for o in (*specs_nvfp4.offers(), *specs_nvfp4_w4a16.offers()))
STEMS = tuple(spec.id.partition("linear_")[2] for spec in SPECS)
FOR_FEW = ("nvfp4_trtllm_8x4", "nvfp4_cutedsl_low_latency", "nvfp4_w4a16_cute_dsl_native")
"""Those for few rows: what serves all rows goes first where the device is no GPU."""


class Plugin:
    """The backend's NVFP4 linears, on the host.

    Args:
        version: Of the kernels: what was found of one version is not known of another.
    """

    def __init__(self, version: str = "") -> None:
        self._version = version

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="flashinfer", version="0")

    @hookimpl
    def quantmux_kernels(self) -> list[KernelSpec]:
        return [_of_host(spec, self._version) for spec in SPECS]


def _of_host(spec: KernelSpec, version: str) -> KernelSpec:
    capability = spec.capability.replace(arch=arch_sets("cpu"), needs=(), tags=spec.capability.tags)
    return replace(spec, capability=capability, sources=(), version=version, veto=None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary()
    monkeypatch.setattr(functions, "function", library.function)
    return library


@pytest.fixture
def registry(fake: FakeLibrary, request: pytest.FixtureRequest) -> Iterator[Registry]:
    del fake
    found = Registry.of({"flashinfer": Plugin(request.node.name), "torch": torch_plugin})
    set_default_registry(found)
    yield found
    set_default_registry(None)


def bound_on_the_host(stem: str) -> tuple[qm.Linear, torch.Tensor]:
    """Give a layer whose only kernel but the reference is the one asked for, and an x."""
    qm.reset_stats()
    scheme = "nvfp4_w4a16" if "w4a16" in stem else "nvfp4_dynamic"
    others = [s.id for s in SPECS if s.id != f"flashinfer/linear_{stem}"]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 128, generator=generator).to(torch.bfloat16)
    x = torch.randn(4, 128, generator=generator).to(torch.bfloat16)
    deny = [*others, "torch/linear_emulated*"]
    return qm.Linear.from_float(weight, scheme, policy={"deny": deny, "self_check": "first_use"}), x


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem not in FOR_FEW])
def test_a_kernel_that_is_right_passes_its_self_check_and_serves(stem: str) -> None:
    layer, x = bound_on_the_host(stem)
    layer(x)
    assert qm.stats()["events"] == []
    assert layer.selection.ranges[0].pipeline.main.id == f"flashinfer/linear_{stem}"


def zeros(y: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(y)


def untouched(_y: torch.Tensor) -> None:
    return None


def a_scale_of_one_block_off(y: torch.Tensor) -> torch.Tensor:
    made = y.clone()
    made[:, 0] *= 1.125
    return made


def no_alpha(y: torch.Tensor) -> torch.Tensor:
    return y * 2.0


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("fault", [zeros, untouched, a_scale_of_one_block_off, no_alpha])
@pytest.mark.parametrize("stem", ["nvfp4_cutlass", "nvfp4_trtllm", "nvfp4_w4a16_cudnn"])
def test_the_self_check_finds_what_users_have_met_and_the_next_kernel_serves(
    stem: str, fault: Any, fake: FakeLibrary
) -> None:
    """All zeros without an error is flashinfer-ai/flashinfer#2577, on sm120."""
    fake.result = fault
    layer, x = bound_on_the_host(stem)
    y = layer(x)
    (event,) = qm.stats()["events"]
    assert event["stage"] == "build"
    assert event["wanted"].endswith(f"flashinfer/linear_{stem}")
    assert event["taken"].endswith("torch/linear_reference")
    assert "self-check" in event["reason"]
    assert bool(y.isfinite().all())
    assert float(y.abs().max()) > 0.0
