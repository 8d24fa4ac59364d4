"""The conformance suite over the NVFP4 quantizers, their device code run on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.backends.cutlass.nvfp4_host import compiled_for_host

from quantmux.capability.arch import arch_sets
from quantmux.capability.profiles import CPU
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_cutlass import native
from quantmux_cutlass.quantize.specs import specs
from quantmux_cutlass.quantize.units import NVFP4

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = {"sources", "compiles"}
"""Asked of the kernels as they are registered: here the GPU's machine code is not what computes."""


class Plugin:
    """The backend's quantizers, on the host."""

    @hookimpl
    def quantmux_backend(self) -> BackendInfo:
        return BackendInfo(name="cutlass", version="0")

    @hookimpl
    def quantmux_kernels(self) -> list[KernelSpec]:
        return [
            replace(spec, capability=spec.capability.replace(arch=arch_sets("cpu")), sources=())
            for spec in specs()
        ]


@pytest.mark.nvcc
@pytest.mark.slow
@pytest.mark.parametrize("stem", ["quantize_nvfp4", "quantize_nvfp4_dynamic"])
def test_the_suite_passes_a_quantizer_in_every_cell(
    stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compiled_for_host(tmp_path)
    monkeypatch.setattr(native, "opened", lambda units, device: {NVFP4: library})  # noqa: ARG005
    registry = Registry.of({"cutlass": Plugin()})
    asked = [
        cell
        for cell in cells(registry, CPU, kernels=(stem,), small_only=True)
        if cell.check not in ELSEWHERE
    ]
    found = [(cell, run_cell(cell, registry, CPU)) for cell in asked]
    wrong = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not wrong, "\n".join(wrong[:5])
    agreed = {c.check for c, o in found if o.verdict is Verdict.AGREES}
    assert agreed >= {"numbers", "repeat", "memory", "strides", "surroundings", "threads", "bounds"}
