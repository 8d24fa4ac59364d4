"""Graphs as inductor's post-grad passes see them, and a check of patterns by running them."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from operator import getitem

import pytest
import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

from quantmux.compile.patterns import RmsNorm, SiluMul, find_rmsnorm, find_silu_mul

HALF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float32: 2.0**-20}
"""What one rounding may change, relative; fp32 has room for another order of operations."""
_WRITES = tuple(
    getattr(torch.ops.aten, name).default for name in ("slice_scatter", "select_scatter", "copy")
)
"""What they overwrite is no input of the value."""


@dataclass
class Captured:
    """A graph, and the values in it that are quantized."""

    graph: torch.fx.Graph
    text: str
    nodes: list[torch.fx.Node] = field(default_factory=list)
    silu_mul: list = field(default_factory=list)
    rmsnorm: list = field(default_factory=list)


class _Stop(Exception):  # noqa: N818 - it ends a compilation of which only the graph is wanted
    pass


class _Keep(CustomGraphPass):
    def __init__(self, *, stop):
        self.stop = stop
        self.captured = []

    def __call__(self, graph):
        op = torch.ops.quantmux_pattern_tests.quantize.default
        kept = Captured(graph, str(graph))
        for node in graph.nodes:
            if node.target is op:
                value = node.args[0]
                kept.nodes.append(value)
                kept.silu_mul.append(find_silu_mul(value))
                kept.rmsnorm.append(find_rmsnorm(value))
        assert str(graph) == kept.text, "a recognizer changed the graph"
        self.captured.append(kept)
        if self.stop:
            raise _Stop

    def uuid(self):
        return None


@pytest.fixture(scope="session")
def quantize():
    """A toy op in the place of a quantizer: dtype and layout do not matter to recognizers."""
    with warnings.catch_warnings():  # torch deprecates what its own modules use on import
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._inductor.compile_fx
    library = torch.library.Library("quantmux_pattern_tests", "FRAGMENT")
    library.define("quantize(Tensor x) -> Tensor")
    library.impl("quantize", lambda x: x.to(torch.int8), "CompositeExplicitAutograd")
    torch.library.register_fake(
        "quantmux_pattern_tests::quantize",
        lambda x: torch.empty(x.shape, dtype=torch.int8, device=x.device),
        lib=library,
    )
    yield torch.ops.quantmux_pattern_tests.quantize
    library._destroy()


@pytest.fixture
def capture(quantize):  # noqa: ARG001 - the op must be there
    """Compile a function by inductor up to its post-grad passes and give the graph found there."""

    def run(function, *args, dynamic=None, stop=True):
        torch._dynamo.reset()
        keep = _Keep(stop=stop)
        compiled = torch.compile(
            function,
            fullgraph=True,
            options={"post_grad_custom_pre_pass": keep, "fx_graph_cache": False},
        )
        for tensor, dim in dynamic or ():
            torch._dynamo.mark_dynamic(tensor, dim)
        expected = contextlib.nullcontext()
        if stop:
            expected = pytest.raises(Exception, match="_Stop")
        with torch.no_grad(), expected:
            compiled(*args)
        (captured,) = keep.captured
        return captured

    yield run
    torch._dynamo.reset()


@pytest.fixture
def check():
    """Run a graph on random numbers: a pattern, computed in fp32 from its input, is the value."""

    def run(captured, place=0, *, scale=1.0):
        value = captured.nodes[place]
        found = captured.silu_mul[place]
        found = found if isinstance(found, SiluMul) else captured.rmsnorm[place]
        assert isinstance(found, SiluMul | RmsNorm), found
        _check_roles(found, value)
        values = _interpret(value, scale)
        want = (_silu_mul if isinstance(found, SiluMul) else _rmsnorm)(found, values)
        got = values[value].reshape(-1, found.n).double()
        assert got.shape == want.shape
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        out, inner = HALF[dtypes[found.out_dtype]], HALF[dtypes[found.in_dtype]]
        allowed = out + len(found.roundings) * inner + HALF[torch.float32]
        least = 2.0**-24 if "fp16" in (found.out_dtype, found.in_dtype) else 1e-7 * scale
        room = allowed * want.abs() + least * (1 + len(found.roundings))
        assert (got - want).abs().le(room).all(), (got - want).abs().max()
        return found

    return run


def _check_roles(found, value):
    """Check inputs, interior and escapes against the graph itself."""
    inputs = _inputs(found)
    inside = {value, *found.interior}
    assert not inside & set(inputs)
    assert list(found.interior) == [n for n in value.graph.nodes if n in set(found.interior)]
    for node in inside:
        read = [n for n in node.all_input_nodes if isinstance(n.meta["val"], torch.Tensor)]
        if node.target not in _WRITES:
            assert all(n in inside or n in inputs for n in read), (node, read, inputs)
    for node in found.escapes:
        assert node in inside
        assert any(user not in inside for user in node.users)


def _inputs(found):
    if isinstance(found, SiluMul):
        return (found.source,) if found.source is not None else (found.gate, found.up)
    return (found.source,) if found.weight is None else (found.source, found.weight)


def _silu_mul(found, values):
    if found.source is None:
        gate, up = (values[n].reshape(-1, found.n).float() for n in (found.gate, found.up))
    else:
        halves = values[found.source].reshape(-1, 2 * found.n).float().chunk(2, 1)
        gate, up = halves if found.gate_first else halves[::-1]
    return (gate / (1.0 + torch.exp(-gate)) * up).double()


def _rmsnorm(found, values):
    x = values[found.source].reshape(-1, found.n).double()
    y = x / torch.sqrt(x.square().mean(1, keepdim=True) + found.eps)
    return y if found.weight is None else y * values[found.weight].double()


def _interpret(value, scale):
    """Compute a graph up to one value, its inputs random, its symbols at their hints."""
    generator = torch.Generator().manual_seed(7)
    values = {}

    def given(node):
        val = node.meta["val"]
        if not isinstance(val, torch.Tensor):
            return _hint(val)
        shape = [_hint(size) for size in val.shape]
        return (torch.randn(shape, generator=generator) * scale).to(val.dtype)

    for node in value.graph.nodes:
        if node.op == "placeholder":
            values[node] = given(node)
        elif node.op == "call_function":
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = (
                args[0][args[1]] if node.target is getitem else node.target(*args, **kwargs)
            )
        if node is value:
            return values
    pytest.fail("the value is not in its graph")


def _hint(size):
    return size.node.hint if isinstance(size, torch.SymInt) else size
