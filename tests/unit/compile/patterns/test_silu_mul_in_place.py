"""In-place SiLU·mul is found past the scatters that functionalization makes of it."""

import pytest
import torch
from torch.nn import functional

from quantmux.compile.patterns import SiluMul

N = 32


def chunks(quantize, x):
    gate, up = x.chunk(2, -1)
    return quantize(functional.silu(gate, inplace=True).mul_(up))


def slices(quantize, x):
    functional.silu(x[..., :N], inplace=True)
    x[..., :N] *= x[..., N:]
    return quantize(x[..., :N])


def unbound(quantize, x):
    gate, up = x.unflatten(-1, (2, N)).unbind(-2)
    functional.silu(gate, inplace=True)
    gate *= up
    return quantize(gate)


def into_up(quantize, x):
    gate, up = x.chunk(2, -1)
    up *= functional.silu(gate)
    return quantize(up)


def out(quantize, x):
    gate, up = x.chunk(2, -1)
    y = torch.empty_like(up)
    torch.mul(functional.silu(gate), up, out=y)
    return quantize(y)


def copied(quantize, x):
    gate, up = x.chunk(2, -1)
    y = torch.empty_like(up)
    y.copy_(functional.silu(gate) * up)
    return quantize(y)


def assigned(quantize, x):
    y = torch.zeros_like(x)
    y[..., :N] = functional.silu(x[..., :N]) * x[..., N:]
    return quantize(y[..., :N])


@pytest.mark.parametrize("form", [chunks, slices, unbound, into_up, out, copied, assigned])
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_in_place_form_on_a_value_of_the_graph_is_found(quantize, capture, check, form, dynamic):
    x = torch.randn(2, 3, 2 * N).bfloat16()
    dims = [(x, 1)] if dynamic else None
    found = check(capture(lambda x: form(quantize, x * 2), x, dynamic=dims))
    assert found.source.target is torch.ops.aten.mul.Tensor
    assert found.source.args[1] == 2
    assert found.escapes == ()


def test_what_is_written_into_an_argument_is_an_escape(quantize, capture, check):
    captured = capture(lambda x: slices(quantize, x), torch.randn(6, 2 * N).bfloat16())
    found = check(captured)
    assert found.source.op == "placeholder"
    targets = {node.target for node in found.escapes}
    assert targets == {torch.ops.aten.slice_scatter.default}


def test_a_half_that_is_overwritten_before_the_product_is_not_the_half(quantize, capture):
    def run(x):
        x = x * 2
        gate, up = x.chunk(2, -1)
        y = functional.silu(gate)
        up.add_(1)
        return quantize(y * up)

    (found,) = capture(run, torch.randn(6, 2 * N).bfloat16()).silu_mul
    assert not isinstance(found, SiluMul) or found.source is None
    assert "up" in found.reason


def test_a_partial_overwrite_stops_the_way_up(quantize, capture):
    def run(x):
        x = x * 2
        x[..., : N // 2] = 0
        gate, up = x.chunk(2, -1)
        return quantize(functional.silu(gate) * up)

    captured = capture(run, torch.randn(6, 2 * N).bfloat16())
    (found,) = captured.silu_mul
    assert isinstance(found, SiluMul)
    assert found.source.target is not torch.ops.aten.mul.Tensor  # it is the tensor after the write
