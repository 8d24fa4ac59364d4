"""The conformance suite over the NVFP4 linear, its library on the host: all but the device code."""

from dataclasses import replace

import pytest

from quantmux.capability.arch import arch_sets
from quantmux.capability.profiles import CPU
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_cutlass.linear.choice import Choice
from quantmux_cutlass.linear.nvfp4 import kernel
from quantmux_cutlass.linear.specs_nvfp4 import specs

from .conftest import unit_of

ELSEWHERE = {"sources", "compiles"}
"""Asked of the kernel as it is registered: here the GPU's machine code is not what computes."""


class Plugin:
    """The backend's NVFP4 linear, on the host."""

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="cutlass", version="0")

    @hookimpl
    def quantmux_kernels(self):
        return [
            replace(spec, capability=spec.capability.replace(arch=arch_sets("cpu")), sources=())
            for spec in specs()
        ]


@pytest.mark.slow
@pytest.mark.usefixtures("host_libraries")
def test_the_suite_passes_the_linear_in_every_cell(monkeypatch):
    by_tma = Choice(unit_of("nvfp4"), (1,))  # the gap of every row of y is overwritten
    monkeypatch.setattr(kernel, "_choose", lambda *_: by_tma)
    registry = Registry.of({"cutlass": Plugin()})
    asked = [
        cell
        for cell in cells(registry, CPU, kernels=("linear_nvfp4",), small_only=True)
        if cell.check not in ELSEWHERE
    ]
    found = [(cell, run_cell(cell, registry, CPU)) for cell in asked]
    wrong = [f"{c.id}: {o.reason}" for c, o in found if o.verdict is Verdict.FAILS]
    assert not wrong, "\n".join(wrong[:5])
    agreed = {c.check for c, o in found if o.verdict is Verdict.AGREES}
    assert agreed >= {"numbers", "repeat", "memory", "strides", "surroundings", "threads", "bounds"}
