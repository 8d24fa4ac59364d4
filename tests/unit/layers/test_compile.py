"""Under torch.compile a layer gives what it gives without, at the price of one graph break."""

import pytest
import torch
from torch import nn

from quantmux.errors import InputError, ShapeError
from quantmux.layers.linear import Linear
from quantmux.layers.quantize import quantize_
from quantmux.layers.shared import shared_input

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


def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = ((5, 32), (1, 32), (0, 32), (7, 32), (2, 3, 32))
    return [
        torch.randn(*shape, generator=generator) * 10.0**i for i, shape in enumerate(shapes, -2)
    ]


@pytest.mark.parametrize("is_bound_before", [False, True])
def test_two_schemes_of_one_shape_stay_apart(is_bound_before):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    quantize_(model, {"0": "int8_channel_token", "1": "fp8_channel_token"})
    compiled = torch.compile(model, backend="eager")
    for x in inputs():
        if is_bound_before:
            model(x)
        got = compiled(x)
        assert torch.equal(got, model(x))
        assert torch.equal(got, model[1](model[0](x)))


def test_many_layers_compile_nothing_of_quantmux(dynamo, recwarn):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(12))).eval()
    quantize_(model, {str(i): SCHEMES[i % len(SCHEMES)] for i in range(12)})
    compiled = torch.compile(model, backend="eager")
    for x in inputs():
        assert torch.equal(compiled(x), model(x))
    assert dynamo["stats"]["unique_graphs"] == 0
    assert all("torch.compiler.disable" in reason for reason in dynamo["graph_break"])
    assert not recwarn.list


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x * 2)))


def test_what_lies_around_the_layers_is_compiled(dynamo):
    torch.manual_seed(0)
    model = Feed().eval()
    quantize_(model, "fp8_channel_token")
    compiled = torch.compile(model, backend="eager")
    x = inputs()[0]
    assert torch.equal(compiled(x), model(x))
    assert dynamo["stats"]["unique_graphs"] == 3  # x * 2, gelu, and the sum


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_compiled_by_itself_gives_the_same(scheme):
    torch.manual_seed(0)
    layer = Linear.from_float(torch.randn(24, 32), scheme, torch.randn(24))
    compiled = torch.compile(layer, backend="eager")
    for x in inputs():
        assert torch.equal(compiled(x), layer(x))


def test_wrong_inputs_raise_what_they_raise_without():
    layer = Linear.from_float(torch.randn(24, 32), "int8_channel_token")
    compiled = torch.compile(layer, backend="eager")
    with pytest.raises(ShapeError, match="wrong width"):
        compiled(torch.ones(2, 31))
    with pytest.raises(InputError, match="needs a gradient"):
        compiled(torch.ones(2, 32, requires_grad=True))


def test_a_shared_input_gives_the_same(dynamo):
    torch.manual_seed(0)
    layers = [Linear.from_float(torch.randn(n, 32), "fp8_channel_token") for n in (24, 8, 9)]
    shared = shared_input(layers)
    compiled = torch.compile(lambda x: [y + 1 for y in shared(x)], backend="eager")
    for x in inputs():
        got, want = compiled(x), [y + 1 for y in shared(x)]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all("torch.compiler.disable" in reason for reason in dynamo["graph_break"])
