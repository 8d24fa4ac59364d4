"""Under torch.compile a layer is one op in one graph, and gives what it gives without."""

import copy
import gc
import subprocess
import sys

import pytest
import torch
from torch import nn

from quantmux.errors import BuildError, InputError, ShapeError
from quantmux.layers.linear import Linear
from quantmux.layers.quantize import quantize_
from quantmux.layers.shared import shared_input
from quantmux.runtime.producers import quantize
from quantmux.runtime.traced.keys import linear_program
from quantmux.runtime.traced.linear import bound_of

SCHEMES = ("int8_channel_token", "fp8_channel_token", "fp8_block128", "nvfp4_dynamic", "fp8_w8a16")


@pytest.fixture(autouse=True)
def dynamo():
    """Give dynamo's counters, and leave nothing compiled behind."""
    import torch._dynamo
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def counted(backend="eager"):
    from torch._dynamo.testing import CompileCounterWithBackend

    return CompileCounterWithBackend(backend)


def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = ((5, 32), (1, 32), (0, 32), (7, 32), (2, 3, 32))
    return [
        torch.randn(*shape, generator=generator) * 10.0**i for i, shape in enumerate(shapes, -2)
    ]


@pytest.mark.parametrize("is_bound_before", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_two_schemes_of_one_shape_stay_apart(backend, is_bound_before):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    quantize_(model, {"0": "int8_channel_token", "1": "fp8_channel_token"})
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for x in inputs():
        if is_bound_before:
            model(x)
        got = compiled(x)
        assert torch.equal(got, model(x))
        assert torch.equal(got, model[1](model[0](x)))


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x * 2)))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_any_number_of_rows_takes_one_graph(backend, dynamo):
    torch.manual_seed(0)
    model = Feed().eval()
    quantize_(model, {"up": "fp8_channel_token", "down": "nvfp4_dynamic"})
    counter = counted(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for m in (2, 3, 4, 8, 17, 64, 129, 333):
        x = torch.randn(m, 32)
        torch.testing.assert_close(compiled(x), model(x), atol=1e-2, rtol=1e-2)
    assert counter.frame_count == 1
    assert not dynamo["graph_break"]


def test_what_a_graph_holds_is_the_op_with_all_weights_as_inputs():
    seen = []

    def look(graph, example):
        seen.append((graph, example))
        return graph.forward

    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token", torch.randn(24))
    x = torch.randn(5, 32)
    got = torch.compile(layer, backend=look, fullgraph=True)(x)
    assert torch.equal(got, layer(x))
    (graph, example) = seen[0]
    calls = [n for n in graph.graph.nodes if n.op == "call_function"]
    assert [n.target for n in calls] == [torch.ops.quantmux.linear]
    weights = calls[0].args[1]
    (form,) = layer.bound.store.forms.values()
    held = {t.data_ptr() for t in form.tensors.values()}
    assert {e.data_ptr() for e in example} == held | {x.data_ptr()}
    assert len(weights) == len(held)
    program = linear_program(calls[0].args[2])
    assert program.selection is layer.selection


def test_layers_alike_share_one_graph():
    # what a host does that compiles its decoder layer once
    torch.manual_seed(0)
    layers = [Linear.from_float(torch.randn(24, 32), "fp8_channel_token") for _ in range(12)]
    counter = counted()
    compiled = torch.compile(lambda layer, x: layer(x), backend=counter, fullgraph=True)
    x = torch.randn(5, 32)
    for layer in layers:
        assert torch.equal(compiled(layer, x), layer(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_compiled_by_itself_gives_the_same(scheme):
    torch.manual_seed(0)
    layer = Linear.from_float(torch.randn(24, 32), scheme, torch.randn(24))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for x in inputs():
        assert torch.equal(compiled(x), layer(x))


def test_rows_that_lie_apart_are_the_strides_of_the_graph_too():
    layer = Linear.from_float(torch.randn(21, 32), "fp8_channel_token", in_dtype="bf16")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for m in (5, 9):
        x = torch.randn(m, 32).bfloat16()
        got, want = compiled(x), layer(x)
        assert torch.equal(got, want)
        assert got.stride() == want.stride()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_quantized_x_goes_from_the_producer_to_the_layer_in_one_graph(backend):
    torch.manual_seed(0)
    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token", in_dtype="bf16")
    config = layer.input_layout(5)

    def model(x):
        q = quantize(x, config)
        return layer(q), q

    counter = counted(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for m in (5, 9, 12):
        x = torch.randn(m, 32).bfloat16()
        (y, q), (want, _) = compiled(x), model(x)
        assert torch.equal(y, want)
        assert torch.equal(layer(q), want)
        q.check()
    assert counter.frame_count == 1
    made_outside = torch.compile(layer, backend=backend, fullgraph=True)
    assert torch.equal(made_outside(quantize(x, config)), want)


def test_weights_that_change_reach_a_graph_that_is_there():
    torch.manual_seed(0)
    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
    other = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
    x = torch.randn(5, 32)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    before = compiled(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(compiled(x), other(x))
    assert not torch.equal(before, other(x))


def test_weights_that_nobody_bound_are_bound_and_do_not_stay_for_ever():
    torch.manual_seed(0)
    layer = Linear.from_float(torch.randn(24, 32), "nvfp4_dynamic", torch.randn(24))
    torch.compile(layer, backend="aot_eager", fullgraph=True)(torch.randn(3, 32))
    key, weights = layer._key, layer._weights
    x = torch.randn(6, 32)
    for _ in range(70):
        copied = [tensor.clone() for tensor in weights]
        assert torch.equal(torch.ops.quantmux.linear(x, copied, key), layer(x))
    from quantmux.runtime.traced import linear

    assert len(linear._adopted) <= 64
    assert bound_of(key, weights) is layer.bound


def test_a_layer_that_is_gone_is_held_by_no_table():
    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
    torch.compile(layer, backend="aot_eager", fullgraph=True)(torch.randn(3, 32))
    from quantmux.runtime.traced import linear

    mine = [key for key in linear._held if key[0] == layer._key]
    assert mine
    torch._dynamo.reset()
    address = mine[0]
    del layer
    gc.collect()
    assert address not in linear._held


def test_a_copy_and_a_layer_in_training_code_have_keys_of_their_own_binding():
    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
    compiled = torch.compile(lambda one, x: one(x), backend="eager", fullgraph=True)
    x = torch.randn(3, 32)
    compiled(layer, x)
    twin = copy.deepcopy(layer)
    assert twin._key is None
    assert torch.equal(compiled(twin, x), layer(x))
    assert twin._key == layer._key
    assert bound_of(twin._key, twin._weights) is twin.bound


KEY = """
import torch, quantmux as qm
torch.manual_seed(0)
layer = qm.Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(3, 32))
print(layer._key)
"""


def test_every_process_names_a_program_alike():
    def key():
        done = subprocess.run(
            [sys.executable, "-c", KEY], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    assert key() == key() != ""


def test_a_key_that_nobody_bound_is_refused():
    with pytest.raises(BuildError, match="nothing is bound so in this process"):
        torch.ops.quantmux.linear(torch.randn(2, 32), [torch.randn(2)], "fp8_channel_token_1x1_0")


def test_wrong_inputs_raise_what_they_raise_without():
    layer = Linear.from_float(torch.randn(24, 32), "int8_channel_token")
    compiled = torch.compile(layer, backend="eager")
    with pytest.raises(ShapeError, match="wrong width"):
        compiled(torch.ones(2, 31))
    with pytest.raises(InputError, match="needs a gradient"):
        compiled(torch.ones(2, 32, requires_grad=True))


def test_a_shared_input_gives_the_same():
    torch.manual_seed(0)
    layers = [Linear.from_float(torch.randn(n, 32), "fp8_channel_token") for n in (24, 8, 9)]
    shared = shared_input(layers)
    compiled = torch.compile(lambda x: [y + 1 for y in shared(x)], backend="eager")
    for x in inputs():
        got, want = compiled(x), [y + 1 for y in shared(x)]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_layers_that_were_called_before_share_one_graph_too():
    torch.manual_seed(0)
    layers = [Linear.from_float(torch.randn(24, 32), "fp8_channel_token") for _ in range(12)]
    x = torch.randn(5, 32)
    for layer in layers:
        layer(x)
    counter = counted()
    compiled = torch.compile(lambda layer, x: layer(x), backend=counter, fullgraph=True)
    for layer in layers:
        assert torch.equal(compiled(layer, x), layer(x))
    assert counter.frame_count == 1


def test_layers_on_the_same_tensors_outlive_each_other():
    torch.manual_seed(0)
    first = Linear.from_float(torch.randn(24, 32), "int8_channel_token")
    second = Linear.from_tensors(first.config, first.weights)
    compiled = torch.compile(lambda layer, x: layer(x), backend="eager", fullgraph=True)
    x = torch.randn(5, 32)
    want = first(x)
    compiled(first, x)
    compiled(second, x)
    from quantmux.runtime.traced import linear

    before = len(linear._adopted)
    key, weights = second._key, second._weights
    del first
    torch._dynamo.reset()
    gc.collect()
    assert torch.equal(compiled(second, x), want)
    assert bound_of(key, weights) is second.bound
    assert len(linear._adopted) == before


def test_a_layer_that_cannot_be_bound_costs_its_neighbours_nothing():
    torch.manual_seed(0)
    good = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")
    broken = Linear.from_float(torch.randn(24, 32), "fp8_channel_token")

    def fails(**_):
        raise RuntimeError("no memory")

    broken.bind = fails
    x = torch.randn(5, 32)
    compiled = torch.compile(good, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), good(x))
    assert broken._key is None


def test_a_context_is_forgotten_with_what_was_traced_in_it():
    import weakref

    from quantmux.runtime.context import Context, default_context

    context = Context(default_context().registry)
    layer = Linear.from_float(torch.randn(24, 32), "fp8_channel_token", context=context)
    torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(3, 32))
    gone = weakref.ref(context)
    del layer, context
    torch._dynamo.reset()
    gc.collect()
    assert gone() is None
