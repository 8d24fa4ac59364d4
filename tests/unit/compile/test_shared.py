"""shared_input in a graph is one op, and gives what it gives without."""

import pytest
import torch

from quantmux.errors import InputError, ShapeError
from quantmux.layers.linear import Linear
from quantmux.layers.shared import shared_input

SCHEMES = ("fp8_channel_token", "nvfp4_dynamic", "fp8_tensor", "fp8_block128")


def linear(scheme, n=24, k=128, seed=0, **kwargs):
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    return Linear.from_float(weight, scheme, in_dtype="bf16", **kwargs)


def targets(compiled):
    return [
        str(node.target)
        for gm in compiled.graphs
        for node in gm.graph.nodes
        if node.op == "call_function" and "quantmux" in str(node.target)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dynamic", [None, True])
def test_is_one_op_and_gives_the_same(through, random, scheme, dynamic):
    shared = shared_input([linear(scheme, n, seed=n) for n in (24, 8, 9)])
    compiled = through(lambda x: shared(x * 2), dynamic=dynamic)
    for shape in ((5, 128), (7, 128), (2, 3, 128), (1, 128), (0, 128)):
        x = random(*shape)
        with torch.no_grad():
            got, want = compiled(x), shared(x * 2)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        assert all(a.stride() == b.stride() for a, b in zip(got, want, strict=True))
    assert set(targets(compiled)) == {"quantmux.fused_linear.default"}
    assert len(targets(compiled)) == len(compiled.graphs)


def test_linears_that_never_agree_stay_apart(through, random):
    shared = shared_input([linear("fp8_channel_token"), linear("int8_channel_token")])
    compiled = through(lambda x: shared(x * 2))
    x = random(5, 128)
    with torch.no_grad():
        got, want = compiled(x), shared(x * 2)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert targets(compiled) == ["quantmux.linear.default"] * 2


def test_static_scales_that_differ_are_kept_apart(through, random):
    layers = [linear("fp8_tensor_static", input_scale=scale) for scale in (0.02, 0.03)]
    shared = shared_input(layers)
    compiled = through(lambda x: shared(x * 2))
    x = random(5, 128)
    with torch.no_grad():
        got, want = compiled(x), shared(x * 2)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_static_scale_that_is_changed_in_place_is_used_by_the_same_graph(through, random):
    layers = [linear("fp8_tensor_static", seed=i, input_scale=0.02) for i in range(2)]
    shared = shared_input(layers)
    compiled = through(lambda x: shared(x * 2))
    x = random(5, 128)
    with torch.no_grad():
        before = compiled(x)
        layers[1].input_scale.mul_(0.05)
        got, want = compiled(x), [layer(x * 2) for layer in layers]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert not torch.equal(before[1], got[1])
    assert targets(compiled) == ["quantmux.fused_linear.default"]


def test_a_quantized_x_is_handed_on(through, random):
    shared = shared_input([linear("fp8_channel_token", seed=i) for i in range(2)])
    compiled = through(lambda q: [y + 1 for y in shared(q)])
    q = shared.quantize(random(5, 128))
    with torch.no_grad():
        got = compiled(q)
        assert all(torch.equal(y, z + 1) for y, z in zip(got, shared(q), strict=True))


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("wrong", [(5, 127), (128, 5)])
def test_wrong_inputs_are_refused_as_they_are_without(random, wrong):
    shared = shared_input([linear("fp8_tensor"), linear("fp8_tensor", seed=2)])
    with pytest.raises(ShapeError, match="wrong width"):
        torch.compile(shared, backend="eager")(random(*wrong))


@pytest.mark.usefixtures("dynamo")
def test_a_gradient_is_refused_as_it_is_without(random):
    shared = shared_input([linear("fp8_tensor"), linear("fp8_tensor", seed=2)])
    with pytest.raises(InputError, match="needs a gradient"):
        torch.compile(shared, backend="eager")(random(5, 128).requires_grad_())
