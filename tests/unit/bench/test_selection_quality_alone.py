"""A backend alone: its consumers behind its own quantizer, or torch's where it has none."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest

from quantmux.bench.rows import BenchCase
from quantmux.bench.selection.cells import cells_of
from quantmux.bench.selection.entrants import Entrants
from quantmux.bench.selection.measure import ALONE, GridPlan, measure_grid
from quantmux.bench.selection.selectors import selector
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config import LinearConfig
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.runtime.context import Context

from .conftest import SCHEME, Consumer, Producer

CONFIG = LinearConfig(out_features=64, in_features=128, scheme="fp8_channel_token")
MODULE = "quantmux_kernels_of_alone_tests"


class Backend:
    def __init__(self, name, specs):
        self.name, self.specs = name, specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name=self.name, version="1.0")

    @hookimpl
    def quantmux_kernels(self):
        return self.specs


def quantizer(backend, **data):
    produces = (OperandOffer.of(SCHEME.activation, ("row_major",)),)
    capability = Capability(arch="any", produces=produces, **data)
    return KernelSpec(f"{backend}/quantize", "quantize", capability, f"{MODULE}:quantize")


def linear(backend):
    pair = SchemeOffer(
        weight=OperandOffer.of(SCHEME.weight, ("row_major",)),
        activation=OperandOffer.of(SCHEME.activation, ("row_major",)),
    )
    capability = Capability(arch="any", schemes=(pair,), output_row_multiple=1)
    return KernelSpec(f"{backend}/linear", "linear", capability, f"{MODULE}:{backend}")


@pytest.fixture
def context(monkeypatch):
    """ "whole" quantizes itself, "half" does not, and torch has the reference quantizer."""
    module = ModuleType(MODULE)
    module.quantize = Producer()
    module.whole, module.half = Consumer(lambda _: 3000.0), Consumer(lambda _: 2000.0)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return Context(
        Registry.of(
            {
                "whole": Backend("whole", (quantizer("whole"), linear("whole"))),
                "half": Backend("half", (linear("half"),)),
                "torch": Backend("torch", (quantizer("torch", is_reference=True),)),
            }
        )
    )


def test_what_stands_alone_already_is_not_timed_again(context, cpu):
    entrants = Entrants(CONFIG, context, cpu)
    alone = {str(p): entrants.alone(p, 4) for p in entrants.compared(4)}
    assert alone["whole/quantize -> whole/linear"] is None
    assert str(alone["whole/quantize -> half/linear"]) == "torch/quantize -> half/linear"


def test_each_backend_has_a_time_of_its_own_and_one_with_everybodys_quantizer(context, cpu, effort):
    plan = GridPlan((BenchCase(CONFIG, 4),), cpu, replace(effort, rounds=2))
    report = measure_grid(plan, context)
    added = [row.pipeline for row in report.rows if row.kind == ALONE]
    assert added == [("torch/quantize", "half/linear")]
    specs = {spec.id: spec for spec in context.registry.kernels}
    (cell,) = cells_of(report.rows, selector(context, cpu), specs)
    assert cell.own["half"].ids == ("torch/quantize", "half/linear")
    assert cell.own["whole"].ids == ("whole/quantize", "whole/linear")
    assert set(cell.consumers) == {"half", "whole"}
    without = measure_grid(replace(plan, with_alone=False), context)
    assert not [row for row in without.rows if row.kind == ALONE]
