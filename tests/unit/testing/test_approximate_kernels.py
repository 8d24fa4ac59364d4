"""The suite, the self-check and the bench's gate read the tags of a kernel that is only near."""

import pytest
from near_kernels import KERNEL, Near, Plugin

from quantmux.bench.gate import compare_pipeline
from quantmux.bench.materials import Materials
from quantmux.config import QuantizeConfig
from quantmux.dispatch.pipeline import Pipeline, Step
from quantmux.dispatch.tier import Tier
from quantmux.errors import NumericsError
from quantmux.ops.spec import Case, op_spec
from quantmux.registry.manager import Registry
from quantmux.runtime.self_check_case import SmallCase
from quantmux.runtime.self_check_run import run_case
from quantmux.testing import engine
from quantmux.testing.cell import Verdict

TOKEN = QuantizeConfig(operand="fp8_token", n=144)


@pytest.fixture(autouse=True)
def _sees_nan():
    Near.loses_nan = False
    yield
    Near.loses_nan = False


def failures(cpu, *tags):
    registry = Registry.of({"near": Plugin(*tags)})
    asked = engine.cells(registry, cpu, checks=("numbers",), small_only=True)
    found = [(cell, engine.run_cell(cell, registry, cpu)) for cell in asked]
    assert sum(o.verdict is Verdict.AGREES for _, o in found) > 20
    return [cell for cell, o in found if o.verdict is Verdict.FAILS]


def spec(*tags):
    (found,) = Registry.of({"near": Plugin(*tags)}).kernels
    return found


def test_the_suite_refuses_reciprocals_unless_the_kernel_says_approximate(cpu):
    bad = failures(cpu)
    assert any(cell.case.kind == "ties" for cell in bad)
    assert not failures(cpu, "approximate")


def test_the_suite_refuses_a_lost_nan_unless_the_kernel_says_finite_only(cpu):
    Near.loses_nan = True
    bad = failures(cpu, "approximate")
    assert {cell.case.kind for cell in bad} == {"nan", "inf", "mixed"}
    assert not failures(cpu, "approximate", "finite_only")


def test_the_self_check_reads_the_tags(cpu):
    case = SmallCase(TOKEN, 33, "ties", None)
    with pytest.raises(NumericsError):
        run_case(case, spec(), KERNEL, cpu)
    run_case(case, spec("approximate"), KERNEL, cpu)


def test_the_gate_of_the_benchmarks_reads_the_tags(cpu):
    call = op_spec("quantize").inputs(Case(TOKEN, 33, "ties"), "cpu", 0)
    result = KERNEL.bind(TOKEN, cpu)(*call.args)
    materials = Materials.__new__(Materials)
    object.__setattr__(materials, "config", TOKEN)
    for tags, ok in (((), False), (("approximate",), True)):
        pipeline = Pipeline((Step(spec(*tags), TOKEN),), Tier.NATIVE)
        assert compare_pipeline(pipeline, call, materials, result).ok is ok
