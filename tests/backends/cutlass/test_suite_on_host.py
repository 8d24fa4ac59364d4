"""The conformance suite over this backend's linears, with the host in the place of the GPU.

Capabilities are the kernels' own; only the architecture is the host's, and the library that
computes is `host_library.cpp`. So what is asked here is everything around the GPU's code:
preparation, rows of outputs, padding, layouts of scales, refusals, threads, and what a call leaves
alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from quantmux.capability.arch import arch_sets
from quantmux.capability.profiles import CPU
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.padding import padded_k16

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = "cutlass_kernels_of_the_host"
KINDS = {
    "linear_fp8": "row",
    "linear_fp8_direct": "row",
    "linear_fp8_small_m": "row",
    "linear_fp8_block": "block",
    "linear_fp8_block_collective": "block",
    "linear_fp8_collective": "row",
    "linear_fp8_block_small_m": "block",
    "linear_nvfp4": "nvfp4",
}
ASKED = (
    "linear_fp8",
    "linear_fp8_direct",
    "linear_fp8_block",
    "linear_fp8_block_collective",
    "linear_nvfp4",
)
"""Those for few tokens are the same on the host but for a bound of M."""
MODULES = ("specs_fp8", "specs_fp8_small_m", "specs_fp8_block", "specs_nvfp4")
ELSEWHERE = {"sources", "compiles"}
"""Asked of the kernels as they are registered: here their sources are not what computes."""


class Plugin:
    """The backend's linears, on the host."""

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="cutlass", version="0")

    @hookimpl
    def quantmux_kernels(self) -> list[KernelSpec]:
        found = [s for m in MODULES for s in import_module(f"quantmux_cutlass.linear.{m}").specs()]
        return [_of_host(spec) for spec in found]


def _of_host(spec: KernelSpec) -> KernelSpec:
    stem = spec.id.partition("/")[2]
    capability = spec.capability.replace(arch=arch_sets("cpu"), tags=spec.capability.tags)
    return replace(spec, capability=capability, load=f"{HOME}:{stem}", sources=(), veto=None)


def _kernel(spec: KernelSpec, unit: Any) -> CutlassLinear:
    multiple = spec.capability.output_row_multiple
    choice = Choice(unit, (int(multiple == 8),))
    prepare = padded_k16
    if unit.name.startswith("nvfp4"):
        prepare = import_module("quantmux_cutlass.linear.nvfp4_weights").swizzled_weights
    top = spec.capability.m_max
    return CutlassLinear(
        spec.id, lambda *_: choice, row_multiple=multiple, m_max=top, prepare=prepare
    )


@pytest.fixture
def registry(
    host_libraries: Callable[..., Any],
    host_unit: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Registry:
    del host_libraries
    module = ModuleType(HOME)
    for spec in Plugin().quantmux_kernels():
        stem = spec.id.partition("/")[2]
        setattr(module, stem, _kernel(spec, host_unit(KINDS[stem])))
    monkeypatch.setitem(sys.modules, HOME, module)
    return Registry.of({"cutlass": Plugin()})


@pytest.mark.slow
@pytest.mark.parametrize("stem", ASKED)
def test_the_suite_passes_a_linear_in_every_cell(registry: Registry, stem: str) -> None:
    asked = [
        cell
        for cell in cells(registry, CPU, kernels=(stem,), small_only=True)
        if cell.check not in ELSEWHERE
    ]
    found = [(cell, run_cell(cell, registry, CPU)) for cell in asked]
    wrong = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not wrong, "\n".join(wrong[:5])
    agreed = {c.check for c, o in found if o.verdict is Verdict.AGREES}
    assert agreed >= {"numbers", "prepare", "repeat", "memory", "threads", "strides"}
