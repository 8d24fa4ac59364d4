"""Plugins made for one test: kernels that compute by the references, and fail on demand."""

import sys
import types
from dataclasses import dataclass, field, replace

import pytest
import torch

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.config import LinearConfig, SiluMulQuantizeConfig
from quantmux.config.policy import Policy
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.weights import quantize_weight
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import LinearWeights
from quantmux.ops.relayout.reference import relayout
from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.registry.protocol import PreparedWeights
from quantmux.runtime.context import Context
from quantmux.runtime.events import reset_stats
from quantmux.runtime.quarantine import Quarantine

MODULE = "quantmux_kernels_of_tests"


@dataclass
class Faulty:
    """What a fake kernel does wrong.

    ``run`` takes M and gives an exception, or None; ``gives`` takes the result and gives another.
    """

    prepare: BaseException | None = None
    bind: BaseException | None = None
    warmup: BaseException | None = None
    run: object = None
    gives: object = None
    calls: dict = field(default_factory=lambda: {"prepare": 0, "bind": 0, "run": 0, "warmup": []})

    def meet(self, stage):
        self.calls[stage] += 1
        error = getattr(self, stage)
        if error is not None:
            raise error

    def meet_run(self, x):
        self.calls["run"] += 1
        error = self.run(x.shape[0] if isinstance(x, torch.Tensor) else x.m) if self.run else None
        if error is not None:
            raise error

    def warmup_(self, ms):
        self.calls["warmup"].append(tuple(ms))
        if self.warmup is not None:
            raise self.warmup


class FakeConsumer:
    """A linear in its own prepared form; undoable, sharing and lossy forms on demand."""

    def __init__(self, layout, fault, form="lossless"):
        self.layout, self.fault, self.form = layout, fault, form

    def prepare(self, weights, config, _device):
        self.fault.meet("prepare")
        if self.form == "shared":
            tensors = weights.named()
            return PreparedWeights(tensors, self.layout, config.n, config.k, lambda: weights)
        moved = replace(weights, data=weights.data.flip(0).contiguous())
        restore = None
        if self.form == "lossless":

            def restore():
                return LinearWeights(moved.data.flip(0).contiguous(), moved.scales.clone())

        tensors = {"data": moved.data, "scales": moved.scales.clone()}
        return PreparedWeights(tensors, self.layout, config.n, config.k, restore)

    def bind(self, config, prepared, _device):
        self.fault.meet("bind")
        assert prepared.weight_layout == self.layout
        data = prepared.tensors["data"]
        scales = prepared.tensors["scales"]
        if self.form != "shared":
            data = data.flip(0)
        weights = LinearWeights(data.contiguous(), scales)

        def run(x, *, out=None):
            self.fault.meet_run(x)
            y = linear(x, weights, config, out=out)
            return self.fault.gives(y) if self.fault.gives else y

        return run

    def warmup(self, _config, ms):
        self.fault.warmup_(ms)


class FakeProducer:
    def __init__(self, function, fault):
        self.function, self.fault = function, fault

    def bind(self, config, _device):
        self.fault.meet("bind")

        def run(x, **kwargs):
            self.fault.meet_run(x)
            return self.function(x, config, **kwargs)

        return run

    def warmup(self, _config, ms):
        self.fault.warmup_(ms)


class FakePlugin:
    def __init__(self, name, specs):
        self.name, self.specs, self.heard = name, specs, []

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(self.name, "1")

    @hookimpl
    def quantmux_kernels(self):
        return tuple(self.specs)

    @hookimpl
    def quantmux_event(self, event):
        self.heard.append(event)


def _taken(fault, *names):
    return {name: fault.pop(name) for name in names if name in fault}


class Shop:
    """Collects kernels, then opens: ``shop.context()``."""

    def __init__(self, module):
        self.module, self.specs, self.plugins = module, [], []
        self.config = LinearConfig(in_features=32, out_features=48, scheme="fp8_channel_token")

    def consumer(
        self, kernel_id, layout="canonical", form="shared", load=None, reads=None, **fault
    ):
        limits = _taken(fault, "m_min", "m_max", "compute", "is_reference")
        scheme = self.config.scheme
        offer = SchemeOffer(
            weight=OperandOffer.of(scheme.weight, ("row_major",)),
            activation=OperandOffer.of(scheme.activation, reads or ("row_major",)),
        )
        capability = Capability(arch=("any",), schemes=(offer,), weight_layout=layout, **limits)
        return self._add(
            kernel_id, "linear", capability, lambda f: FakeConsumer(layout, f, form), load, fault
        )

    def producer(self, kernel_id, op="quantize", **fault):
        function = {"quantize": quantize, "silu_mul_quantize": silu_mul_quantize}[op]
        limits = _taken(fault, "m_min", "m_max", "is_reference")
        offer = OperandOffer.of(self.config.scheme.activation, ("row_major",))
        capability = Capability(arch=("any",), produces=(offer,), **limits)
        return self._add(
            kernel_id, op, capability, lambda f: FakeProducer(function, f), None, fault
        )

    def mover(self, kernel_id, source, target, **fault):
        capability = Capability(arch=("any",), relayouts=((source, target),))
        return self._add(
            kernel_id, "relayout", capability, lambda f: FakeProducer(relayout, f), None, fault
        )

    def _add(self, kernel_id, op, capability, make, load, fault):
        known = Faulty(**fault)
        name = kernel_id.replace("/", "_")
        setattr(self.module, name, make(known))
        path = load or f"{MODULE}:{name}"
        self.specs.append(KernelSpec(id=kernel_id, op=op, capability=capability, load=path))
        return known

    def context(self, **policy):
        backends = dict.fromkeys(s.backend for s in self.specs)
        self.plugins = [FakePlugin(b, [s for s in self.specs if s.backend == b]) for b in backends]
        policy.setdefault("order", tuple(backends))
        # these kernels are wrong on purpose, and their calls are counted
        policy.setdefault("self_check", "never")
        registry = Registry.of({p.name: p for p in self.plugins}, Policy(**policy))
        assert all(r.state == "ok" for r in registry.plugins), registry.plugins
        return Context(registry, Quarantine())

    def select(self, context, **kwargs):
        return context.select(self.config, HERE_CPU, **kwargs)

    def weights(self):
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(48, 32, generator=generator) * 10 ** torch.linspace(-4, 4, 48)[:, None]
        return quantize_weight(weight, self.config.scheme)

    def x(self, m):
        generator = torch.Generator().manual_seed(m)
        x = torch.randn(m, 32, generator=generator) * 10 ** torch.linspace(-4, 4, 32)
        return x.to(torch.bfloat16)


@pytest.fixture
def shop(monkeypatch):
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    reset_stats()
    yield Shop(module)
    reset_stats()


@pytest.fixture
def silu_config():
    return SiluMulQuantizeConfig(operand="fp8_token", n=32)
