"""A backend of kernels whose speed a test decides, and an effort that takes no time."""

# ruff: noqa: ARG001, ARG002 - the arguments are the protocol's

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from quantmux.bench.effort import Effort
from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.config import scheme as named_scheme
from quantmux.ops.linear.reference import linear
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import LinearWeights
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.registry.protocol import PreparedWeights
from quantmux.runtime.context import Context

MODULE = "quantmux_kernels_of_bench_tests"
SCHEME = named_scheme("fp8_channel_token")
ROOT = Path(__file__).parents[3]


def script(name):
    """Give a program of ``benchmarks`` as a module, newly made."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # scripts import their neighbours
        spec.loader.exec_module(module)
    return module


class Producer:
    def bind(self, config, device):
        return lambda x, **scales: quantize(x, config, **scales)

    def warmup(self, config, ms):
        pass


class Consumer:
    """Computes by the reference; ``us(m)`` says how long that takes, ``spoil`` changes y."""

    def __init__(self, us, spoil=lambda y: y):
        self.us, self.spoil, self.calls = us, spoil, 0

    def prepare(self, weights, config, device):
        return PreparedWeights(weights.named(), "canonical", config.n, config.k)

    def bind(self, config, prepared, device):
        weights = LinearWeights(**prepared.tensors)

        def call(x, *, out=None):
            self.calls += 1
            until = time.perf_counter() + self.us(x.m) * 1e-6
            y = self.spoil(linear(x, weights, config))
            while time.perf_counter() < until:
                pass
            return y

        return call

    def warmup(self, config, ms):
        pass


class Plugin:
    def __init__(self, specs):
        self._specs = specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(name="acme", version="1.0")

    @hookimpl
    def quantmux_kernels(self):
        return self._specs


@pytest.fixture
def backend():
    """Give a context of one backend "acme" with a producer and the given linears."""
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module

    def make(**linears):
        module.quantize = Producer()
        specs = [
            KernelSpec(
                "acme/quantize",
                "quantize",
                Capability(
                    arch="any", produces=(OperandOffer.of(SCHEME.activation, ("row_major",)),)
                ),
                f"{MODULE}:quantize",
            )
        ]
        pair = SchemeOffer(
            weight=OperandOffer.of(SCHEME.weight, ("row_major",)),
            activation=OperandOffer.of(SCHEME.activation, ("row_major",)),
        )
        for name, kernel in linears.items():
            setattr(module, name, kernel)
            capability = Capability(arch="any", schemes=(pair,), output_row_multiple=1)
            specs.append(KernelSpec(f"acme/{name}", "linear", capability, f"{MODULE}:{name}"))
        return Context(Registry.of({"acme": Plugin(tuple(specs))}))

    yield make
    sys.modules.pop(MODULE, None)


@pytest.fixture
def consumer():
    return Consumer


@pytest.fixture
def cpu():
    return HERE_CPU


@pytest.fixture
def effort():
    return Effort(rounds=3, rotate_bytes=100_000, max_copies=3, round_us=300.0)
