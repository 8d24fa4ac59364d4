"""Kernels of a test, made of capabilities and references; graphs without inductor's codegen."""

import sys
import types
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from quantmux.capability.capability import Capability, OperandOffer, SchemeOffer
from quantmux.capability.detect import HERE_CPU
from quantmux.config import LinearConfig, operand, scheme
from quantmux.config.policy import Policy
from quantmux.layers.linear import Linear
from quantmux.ops.layouts import as_bits
from quantmux.ops.linear.reference import linear
from quantmux.ops.linear.spec import empty_output
from quantmux.ops.quantize.reference import quantize
from quantmux.ops.quantized import DATA_DTYPES, DTYPES, LinearWeights
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm_quantize
from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
from quantmux.registry.hookspecs import hookimpl
from quantmux.registry.kernel_spec import BackendInfo, KernelSpec
from quantmux.registry.manager import Registry
from quantmux.registry.protocol import PreparedWeights
from quantmux.runtime.context import Context
from quantmux.runtime.events import reset_stats
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.traced.keys import LinearProgram

MODULE = "quantmux_kernels_of_compile_tests"
FUNCTIONS = {
    "quantize": quantize,
    "silu_mul_quantize": silu_mul_quantize,
    "rmsnorm_quantize": rmsnorm_quantize,
}


@dataclass
class Calls:
    """How often a kernel was called, with what, and what it raises; ``fails`` takes the input."""

    inputs: list = field(default_factory=list)
    fails: object = None
    binds: object = None

    def meet(self, x):
        self.inputs.append(x)
        error = self.fails(x) if self.fails else None
        if error is not None:
            raise error


class Consumer:
    def __init__(self, layout, calls, multiple):
        self.layout, self.calls, self.multiple = layout, calls, multiple

    def prepare(self, weights, config, _device):
        # as bytes: torch's checks of ops compare their inputs, and cannot compare fp8
        tensors = {name: as_bits(tensor) for name, tensor in weights.named().items()}
        return PreparedWeights(tensors, self.layout, config.n, config.k, lambda: weights)

    def bind(self, config, prepared, _device):
        if self.calls.binds:
            raise self.calls.binds
        held = dict(prepared.tensors)
        held["data"] = held["data"].view(DATA_DTYPES[config.scheme.weight.element])
        if config.scheme.weight.is_nvfp4:
            held["scales"] = held["scales"].view(torch.float8_e4m3fn)
        weights = LinearWeights(**held)

        def run(x, *, out=None):
            self.calls.meet(x)
            if out is None:
                m = x.shape[0] if isinstance(x, torch.Tensor) else x.m
                dtype = DTYPES[config.out_dtype]
                out = empty_output(m, config.n, dtype, "cpu", self.multiple)
            return linear(x, weights, config, out=out)

        return run

    def warmup(self, config, ms):
        pass


class Producer:
    def __init__(self, function, calls):
        self.function, self.calls = function, calls

    def bind(self, config, _device):
        if self.calls.binds:
            raise self.calls.binds

        def run(x, *args, **kwargs):
            self.calls.meet(x)
            return self.function(x, *args, config, **kwargs)

        return run

    def warmup(self, config, ms):
        pass


class Plugin:
    def __init__(self, name, specs):
        self.name, self.specs = name, specs

    @hookimpl
    def quantmux_backend(self):
        return BackendInfo(self.name, "1")

    @hookimpl
    def quantmux_kernels(self):
        return tuple(self.specs)


class Kit:
    """Collects kernels, then opens: ``kit.context()``."""

    def __init__(self, module):
        self.module, self.specs = module, []

    def consumer(self, kernel_id, scheme_of, layouts, *, inside=False, offer=None, **capability):
        """Add a linear of a scheme; ``layouts`` None reads a plain x."""
        asked = scheme(scheme_of) if isinstance(scheme_of, str) else scheme_of
        reads = None
        if layouts is not None or inside:
            reads = OperandOffer.of(asked.activation, layouts or ("row_major",), **(offer or {}))
        pair = SchemeOffer(
            weight=OperandOffer.of(asked.weight, ("row_major",)),
            activation=reads,
            quantizes_inside=inside,
        )
        fields = {"in_dtypes": ("bf16", "fp16", "fp32"), "takes_bias": True, **capability}
        fields.setdefault("out_dtypes", ("bf16", "fp16", "fp32"))
        made = Capability(arch=("any",), schemes=(pair,), **fields)
        return self._add(
            kernel_id,
            "linear",
            made,
            lambda c: Consumer(made.weight_layout, c, made.output_row_multiple),
        )

    def producer(self, kernel_id, operand_of, layouts, op="quantize", *, offer=None, **capability):
        """Add a producer of one operand."""
        asked = operand(operand_of) if isinstance(operand_of, str) else operand_of
        fields = {
            "takes_padded_n": True,
            "takes_padded_m": True,
            "in_dtypes": ("bf16", "fp16", "fp32"),
            **capability,
        }
        produces = (OperandOffer.of(asked, tuple(layouts), **(offer or {})),)
        made = Capability(arch=("any",), produces=produces, **fields)
        return self._add(kernel_id, op, made, lambda c: Producer(FUNCTIONS[op], c))

    def _add(self, kernel_id, op, capability, make):
        calls = Calls()
        name = kernel_id.replace("/", "_")
        setattr(self.module, name, make(calls))
        self.specs.append(
            KernelSpec(id=kernel_id, op=op, capability=capability, load=f"{MODULE}:{name}")
        )
        return calls

    def context(self, **policy):
        """Give a context of these kernels; backends in the order in which they were added."""
        backends = dict.fromkeys(s.backend for s in self.specs)
        plugins = {b: Plugin(b, [s for s in self.specs if s.backend == b]) for b in backends}
        policy.setdefault("order", tuple(backends))
        policy.setdefault("self_check", "never")
        registry = Registry.of(plugins, Policy(**policy))
        assert all(r.state == "ok" for r in registry.plugins), registry.plugins
        return Context(registry, Quarantine())


@pytest.fixture
def kit(monkeypatch):
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    reset_stats()
    yield Kit(module)
    reset_stats()


@pytest.fixture
def program():
    """Give the program of a linear that nobody has bound."""

    def make(context, name, n=32, k=128, **config):
        asked = LinearConfig(in_features=k, out_features=n, scheme=name, **config)
        selection = context.select(asked, HERE_CPU)
        return LinearProgram(f"{name} {n}x{k} {id(context)}", selection, context, None, (), (), n)

    return make


@pytest.fixture
def layer():
    """Give a linear with random weights."""

    def make(context, name, n=32, k=128, *, seed=0, **kwargs):
        weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
        kwargs.setdefault("in_dtype", "bf16")
        return Linear.from_float(weight, name, context=context, **kwargs)

    return make


@pytest.fixture
def random():
    """Give random numbers of mixed magnitude."""

    def make(*shape, dtype=torch.bfloat16, seed=7):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(*shape, generator=generator)
        return (x * 10 ** torch.linspace(-2, 2, shape[-1])).to(dtype)

    return make


class Split(nn.Module):
    """A down projection behind SiLU·mul of one tensor."""

    def __init__(self, down):
        super().__init__()
        self.down = down

    def forward(self, x):
        gate, up = x.chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


@pytest.fixture
def dynamo():
    """Leave nothing compiled behind."""
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def through(dynamo):  # noqa: ARG001 - it cleans up
    """Compile as inductor does up to its post-grad passes, run a pass, and run the graph."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    def compile_with(model, *passes, dynamic=None):
        graphs = []

        def finish(gm, _inputs):
            for one in passes:
                one(gm.graph)
            gm.recompile()
            graphs.append(gm)
            return gm.forward

        backend = aot_autograd(
            fw_compiler=finish, inference_compiler=finish, decompositions=select_decomp_table()
        )
        compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
        compiled.graphs = graphs
        return compiled

    return compile_with
