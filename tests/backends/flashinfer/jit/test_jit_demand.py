from __future__ import annotations

import os
import sys
import time
import types

import pytest
import torch
from tests.backends.flashinfer.jit.conftest import device_of

import quantmux as qm
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.config import LinearConfig
from quantmux.config.policy import Policy
from quantmux.errors import BuildError, ConfigError, NotBuiltError
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.registry.protocol import PreparedWeights
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.waiting import patiently
from quantmux_flashinfer.jit import background, demand, making, states, variables

H200 = device_of(90)
BOTH = ("gemm", "rope")


def test_what_is_missing_is_compiled_in_the_background_and_said(machine):
    machine.behaves(seconds=0.2)
    with pytest.raises(NotBuiltError) as caught:
        demand.ensure(BOTH, H200)
    late = caught.value
    assert late.headline == (
        "FlashInfer's modules gemm, rope for 90a: being compiled in the background, about 47 s each"
    )
    assert not late.is_ready
    assert late.wait(20)
    demand.ensure(BOTH, H200)
    assert sorted(machine.compiled) == ["gemm", "rope"]


def test_the_same_is_asked_for_many_times_and_compiled_once(machine):
    machine.behaves(seconds=0.3)
    errors = []
    for _ in range(5):
        with pytest.raises(NotBuiltError) as caught:
            demand.ensure(BOTH, H200)
        errors.append(caught.value)
    assert len({error.headline for error in errors}) == 1
    assert all(error.wait(20) for error in errors)
    demand.ensure(BOTH, H200)
    assert len(machine.compiled) == 2


def test_while_it_is_compiled_it_can_still_be_had(machine):
    machine.behaves(seconds=0.5)
    with pytest.raises(NotBuiltError) as caught:
        demand.ensure(("gemm",), H200)
    assert states.state_of("gemm", "90a")[0] is states.State.BUILDING
    assert states.why_not("gemm", H200.arch) is None
    caught.value.wait(20)


def test_who_says_wait_waits(machine, options):
    options["build"] = "wait"
    demand.ensure(BOTH, H200)
    assert sorted(machine.compiled) == ["gemm", "rope"]


def test_who_says_never_is_told_that_nobody_compiles(machine, options):
    options["build"] = "never"
    with pytest.raises(NotBuiltError) as caught:
        demand.ensure(BOTH, H200)
    assert caught.value.ready is None
    assert not caught.value.wait(0)
    assert machine.compiled == []


def test_an_unknown_word_is_refused(machine, options):
    options["build"] = "later"
    with pytest.raises(ConfigError, match="background"):
        demand.ensure(BOTH, H200)
    del machine


def test_nothing_to_compile_asks_for_nothing(machine):
    demand.ensure((), H200)
    assert machine.compiled == []


def test_what_cannot_be_compiled_here_is_unavailable_before_anything_is_begun(machine):
    (machine.home / "include" / "cublasLt.h").unlink()
    machine.look_again()
    with pytest.raises(BuildError) as caught:
        demand.ensure(("rope", "gemm"), H200)
    assert not isinstance(caught.value, NotBuiltError)
    assert caught.value.code == "unavailable"
    assert "pip install nvidia-cublas" in str(caught.value)
    assert machine.compiled == []


@pytest.mark.parametrize("how", ["background", "wait"])
def test_a_failure_is_raised_with_the_compilers_words_and_not_tried_again(machine, options, how):
    options["build"] = how
    machine.behaves(fail="error: no such thing")
    with pytest.raises(BuildError, match="no such thing") as caught:
        patiently(lambda: demand.ensure(("gemm",), H200))
    assert caught.value.code == "compile"
    with pytest.raises(BuildError, match="no such thing"):
        demand.ensure(("gemm",), H200)
    assert machine.compiled == ["gemm"]


def test_a_process_whose_flashinfer_saw_other_gpus_is_refused(machine, monkeypatch):
    loaded = types.SimpleNamespace(
        __file__=str(machine.site / "flashinfer" / "jit" / "env.py"),
        FLASHINFER_BASE_DIR=machine.workspace,
        FLASHINFER_JIT_DIR=machine.workspace / "0.7.2.post1" / "89" / "cached_ops",
        flashinfer_version="0.7.2.post1",
    )
    monkeypatch.setitem(sys.modules, "flashinfer.jit.env", loaded)
    with pytest.raises(BuildError) as caught:
        demand.ensure(("gemm",), H200)
    assert caught.value.code == "unavailable"
    assert caught.value.facts == ("needs  90a", "found  89")


def test_the_end_of_the_program_ends_the_compilers(machine):
    machine.behaves(seconds=60)
    with pytest.raises(NotBuiltError) as caught:
        demand.ensure(("gemm",), H200)
    deadline = time.monotonic() + 20
    while not machine.compiled:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    background.end_builds()
    assert caught.value.wait(5)
    assert background.in_background("gemm", "90a").error.code == "interrupted"
    machine.behaves(seconds=0)
    patiently(lambda: demand.ensure(("gemm",), H200))  # it was nobody's fault: tried anew


def test_a_forked_child_has_no_build_of_its_parent(machine):
    machine.behaves(seconds=1)
    with pytest.raises(NotBuiltError) as caught:
        demand.ensure(("gemm",), H200)
    child = os.fork()
    if child == 0:
        os._exit(0 if background.in_background("gemm", "90a") is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert caught.value.wait(20)


@pytest.mark.usefixtures("machine")
def test_a_module_that_is_there_is_loaded_with_our_environment_too(monkeypatch):
    making.make("gemm", "90a")
    variables.take_back()
    monkeypatch.setenv("FLASHINFER_NO_DOWNLOAD", "0")
    demand.ensure(("gemm",), H200)
    assert os.environ["FLASHINFER_NO_DOWNLOAD"] == "1"
    assert os.environ["FLASHINFER_USE_CUDA_NORM"] == "1"


class Late:
    """A linear on the host whose kernel needs modules of an H200's."""

    def prepare(self, weights, config, _device):
        named = weights.named()
        return PreparedWeights(named, "canonical", config.n, config.k, lambda: weights)

    def bind(self, config, prepared, _device):
        demand.ensure(BOTH, H200)
        weights = qm.LinearWeights(prepared.tensors["data"], prepared.tensors["scales"])
        return lambda x, *, out=None: linear(x, weights, config, out=out)

    def warmup(self, _config, _ms):
        return


class InTime(Late):
    def bind(self, config, prepared, _device):
        weights = qm.LinearWeights(prepared.tensors["data"], prepared.tensors["scales"])
        return lambda x, *, out=None: linear(x, weights, config, out=out)


class Producer:
    def bind(self, config, _device):
        return lambda x, **kwargs: quantize(x, config, **kwargs)

    def warmup(self, _config, _ms):
        return


class Plugin:
    def __init__(self, name, *specs):
        self.name, self.specs = name, specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(self.name, "1")

    @hookimpl
    def quantmux_kernels(self):
        return self.specs


@pytest.fixture
def layer(monkeypatch):
    config = LinearConfig(in_features=32, out_features=48, scheme="fp8_channel_token")
    scheme = config.scheme
    module = types.ModuleType("quantmux_late_kernels")
    module.late, module.in_time, module.producer = Late(), InTime(), Producer()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    offer = SchemeOffer(
        weight=OperandOffer.of(scheme.weight, ("row_major",)),
        activation=OperandOffer.of(scheme.activation, ("row_major",)),
    )
    reads = Capability(arch=("any",), schemes=(offer,), weight_layout="canonical")
    made = OperandOffer.of(scheme.activation, ("row_major",))
    makes = Capability(arch=("any",), produces=(made,))

    def spec(kernel, op, capability):
        load = f"{module.__name__}:{kernel.partition('/')[2]}"
        return KernelSpec(id=kernel, op=op, capability=capability, load=load)

    plugins = (
        Plugin("one", spec("one/late", "linear", reads), spec("one/producer", "quantize", makes)),
        Plugin("two", spec("two/in_time", "linear", reads)),
    )
    policy = Policy(order=("one", "two"), self_check="never", fallback={"build": "silent"})
    context = Context(Registry.of({p.name: p for p in plugins}, policy), Quarantine())
    weights = quantize_weight(torch.randn(48, 32), scheme)
    return qm.Linear(config, weights, context=context), context


def test_a_call_is_served_meanwhile_and_a_warmup_waits_for_the_modules(machine, layer):
    linear_, context = layer
    machine.behaves(seconds=0.3)
    assert linear_.bind().pipeline_for(1).main.id == "two/in_time"
    report = qm.warmup(linear_, ms=(1,), context=context)
    assert report.failed == ()
    assert linear_.bind().pipeline_for(1).main.id == "one/late"
    assert context.quarantine.entries() == ()
    assert sorted(machine.compiled) == ["gemm", "rope"]
