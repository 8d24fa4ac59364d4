"""The checks that need a GPU are proved by mutants of a right kernel: torch's own FP8 GEMM."""

import sys
import types
from dataclasses import replace

import pytest
import torch

import quantmux as qm
from quantmux.capability.detect import resolve_device
from quantmux.registry.manager import Registry
from quantmux.testing.cell import Verdict
from quantmux.testing.engine import cells, run_cell
from quantmux_torch import plugin as torch_plugin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

COPIED = "torch/linear_scaled_mm_row"


class Gemm:
    """Torch's kernel under another name; ``after`` sees x and the result of every call."""

    def __init__(self, after=None):
        self.kernel = Registry.of({"torch": torch_plugin}).load_kernel(COPIED)
        self.after = after

    def prepare(self, weights, config, device):
        return replace(self.kernel.prepare(weights, config, device), weight_layout="lab:row")

    def bind(self, config, prepared, device):
        run = self.kernel.bind(config, prepared, device)
        if self.after is None:
            return run

        def call(x, out=None):
            y = run(x, out=out)
            self.after(x, y)
            return y

        return call

    def warmup(self, config, ms):
        self.kernel.warmup(config, ms)


def launches_twice(_x, y):
    y.mul_(1)


def launches_for_no_rows(x, y):
    if not len(y):
        torch.zeros(8, device=x.device)


def waits(_x, y):
    bool(y.isnan().any())


def waits_for_a_copy(x, _y):
    x.scales.cpu()


def keeps_what_it_captured(seen):
    """Give a fault that lays the results of calls outside of graphs over those inside."""

    def after(_x, y):
        if torch.cuda.is_current_stream_capturing():
            y.copy_(seen.setdefault(y.shape, torch.zeros_like(y)))
        else:
            seen[y.shape] = y.clone()

    return after


MUTANTS = {
    "launches_twice": (launches_twice, {}, "launches"),
    "launches_for_no_rows": (launches_for_no_rows, {}, "launches"),
    "declares_two": (None, {"launches": 2}, "launches"),
    "waits": (waits, {}, "host_sync"),
    "waits_for_a_copy": (waits_for_a_copy, {}, "host_sync"),
    "waits_in_capture": (waits, {}, "graph"),
    "keeps_what_it_captured": (keeps_what_it_captured({}), {}, "graph"),
}


def outcomes(name, after, changes, check):
    module = types.ModuleType(f"quantmux_lab_{name}")
    module.kernel = Gemm(after)
    sys.modules[module.__name__] = module
    (spec,) = (s for s in torch_plugin.quantmux_kernels() if s.id == COPIED)
    capability = spec.capability.replace(weight_layout="lab:row", **changes)
    load = f"{module.__name__}:kernel"
    mine = replace(spec, id=f"lab/{name}", load=load, capability=capability, sources=())
    module.quantmux_backend = qm.hookimpl(lambda: qm.BackendInfo(name="lab", version="1"))
    module.quantmux_kernels = qm.hookimpl(lambda: (mine,))
    registry, device = Registry.of({"lab": module}), resolve_device("cuda")
    try:
        return [
            run_cell(cell, registry, device) for cell in cells(registry, device, checks=(check,))
        ]
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("check", ["launches", "host_sync", "graph"])
def test_the_kernel_that_is_right_passes(check):
    found = outcomes("right", None, {}, check)
    assert {o.verdict for o in found} == {Verdict.AGREES}, [o.reason for o in found]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_the_check_of_its_fault(name):
    found = outcomes(name, *MUTANTS[name])
    assert any(o.verdict is Verdict.FAILS for o in found), [o.reason for o in found]
    assert all(o.code != "context_poisoned" for o in found)
