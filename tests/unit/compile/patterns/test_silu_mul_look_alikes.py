"""What looks like SiLU·mul and is not: each is told apart, most with the reason."""

import pytest
import torch
from torch.nn import functional

from quantmux.compile.patterns import NearMiss, SiluMul

N = 32


def halves(x):
    return x.chunk(2, -1)


def gelu(x):
    gate, up = halves(x)
    return functional.gelu(gate) * up


def gelu_tanh(x):
    gate, up = halves(x)
    return functional.gelu(gate, approximate="tanh") * up


def relu(x):
    gate, up = halves(x)
    return functional.relu(gate) * up


def relu_squared(x):
    gate, up = halves(x)
    return functional.relu(gate).square() * up


def hardswish(x):
    gate, up = halves(x)
    return functional.hardswish(gate) * up


def glu(x):
    return functional.glu(x)


def sigmoid_gate(x):
    gate, up = halves(x)
    return torch.sigmoid(gate) * up


def clamped(x):
    gate, up = halves(x)
    return functional.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)


def clamped_gate(x):
    gate, up = halves(x)
    return functional.silu(gate.clamp(max=7.0)) * up


def clamped_silu(x):
    gate, up = halves(x)
    return functional.silu(gate).clamp(max=7.0) * up


def swiglu_oai(x):
    gate, up = x[..., ::2], x[..., 1::2]
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(1.702 * gate))


def alpha(x):
    gate, up = halves(x)
    return gate * torch.sigmoid(1.702 * gate) * up


def shifted_up(x):
    gate, up = halves(x)
    return functional.silu(gate) * (up + 1)


def scaled_after(x):
    gate, up = halves(x)
    return functional.silu(gate) * up * 0.5


def scaled_by_rows(x):
    gate, up = halves(x)
    return functional.silu(gate) * up * x[..., :1]


def scaled_silu(x):
    gate, up = halves(x)
    return functional.silu(gate) * 0.5 * up


def third_factor(x):
    gate, up = halves(x)
    return functional.silu(gate) * up * up


def interleaved(x):
    return functional.silu(x[..., ::2]) * x[..., 1::2]


def interleaved_unbind(x):
    gate, up = x.unflatten(-1, (N, 2)).unbind(-1)
    return functional.silu(gate) * up


def per_head(x):
    gate, up = x.unflatten(-1, (4, 16)).chunk(2, -1)
    return (functional.silu(gate) * up).flatten(-2)


def overlapping(x):
    return functional.silu(x[..., :N]) * x[..., 16 : 16 + N]


def not_the_whole(x):
    return functional.silu(x[..., : N // 2]) * x[..., N // 2 : N]


def itself(x):
    return functional.silu(x) * x


def silu_alone(x):
    return functional.silu(x)


def two_gates(x):
    gate, up = halves(x)
    return (gate * torch.sigmoid(up)) * up


def wrong_divisor(x):
    gate, up = halves(x)
    return gate / (1 + torch.exp(-up)) * up


def plus_sign(x):
    gate, up = halves(x)
    return gate / (1 + torch.exp(gate)) * up


def other_constant(x):
    gate, up = halves(x)
    return gate / (1.5 + torch.exp(-gate)) * up


def scaled_add(x):
    gate, up = halves(x)
    return gate / torch.add(torch.ones_like(gate), torch.exp(-gate), alpha=2) * up


def scaled_one(x):
    gate, up = halves(x)
    return gate / torch.add(torch.exp(-gate), 1, alpha=2) * up


def floor_division(x):
    gate, up = halves(x)
    return torch.div(gate, 1 + torch.exp(-gate), rounding_mode="floor") * up


def broadcast_up(x):
    gate, up = halves(x)
    return functional.silu(gate) * up[:1]


def broadcast_gate(x):
    gate, up = halves(x)
    return functional.silu(gate[..., :1]) * up


def rolled_rows(x):
    gate, up = halves(x)
    return functional.silu(gate) * up.roll(1, 0)


def rows_swapped(x):
    gate, up = x[:3, :N], x[3:, N:]
    return functional.silu(gate) * up


def transposed(x):
    gate, up = halves(x)
    return functional.silu(gate) * up.T.reshape(-1, N)


def through_fp16(x):
    gate, up = halves(x)
    return (functional.silu(gate.half()) * up.half()).to(x.dtype)


def bias(x):
    gate, up = halves(x)
    return functional.silu(gate) * up + 1


def in_other_order(x):
    gate, up = halves(x)
    return (gate * up) * torch.sigmoid(gate)


LOOK_ALIKES = {
    gelu: "GELU",
    gelu_tanh: "GELU",
    relu: "ReLU",
    relu_squared: "ReLU",
    hardswish: None,
    glu: None,
    sigmoid_gate: "sigmoid(gate), not silu",
    clamped: "clamp",
    clamped_gate: "clamp",
    clamped_silu: "clamp",
    swiglu_oai: "inside the sigmoid",
    alpha: "inside the sigmoid",
    shifted_up: "up is changed by add",
    scaled_after: "mul afterwards",
    scaled_by_rows: "mul afterwards",
    scaled_silu: "mul before the product",
    third_factor: "third factor",
    interleaved: "not one run of columns",
    interleaved_unbind: "not one run of columns",
    per_head: "",
    overlapping: "columns 16..48",
    not_the_whole: "columns 16..32",
    itself: "the same value",
    silu_alone: None,
    two_gates: "associated otherwise",
    wrong_divisor: None,
    plus_sign: None,
    other_constant: None,
    scaled_add: None,
    scaled_one: None,
    floor_division: None,
    broadcast_up: "",
    broadcast_gate: "",
    rolled_rows: "",
    rows_swapped: "",
    transposed: "",
    through_fp16: "",
    bias: "add afterwards",
    in_other_order: "associated otherwise",
}
"""The function and words of the reason; None where nothing need be said, "" where anything may."""


@pytest.mark.parametrize("function", LOOK_ALIKES, ids=lambda f: f.__name__)
def test_a_look_alike_is_not_found(quantize, capture, function):
    words = LOOK_ALIKES[function]
    captured = capture(lambda x: quantize(function(x)), torch.randn(6, 2 * N).bfloat16())
    (found,) = captured.silu_mul
    assert not isinstance(found, SiluMul)
    if words:
        assert isinstance(found, NearMiss)
        assert words in found.reason


def test_silu_of_fp32_that_is_rounded_is_not_found(quantize, capture):
    def run(x):
        gate, up = x.chunk(2, -1)
        return quantize(functional.silu(gate).bfloat16() * up)

    (found,) = capture(run, torch.randn(6, 2 * N)).silu_mul
    assert isinstance(found, NearMiss)
    assert "is bf16, the input fp32" in found.reason


def test_silu_in_another_16_bit_format_is_not_found(quantize, capture):
    def run(x):
        gate, up = x.chunk(2, -1)
        return quantize(functional.silu(gate.float()).half() * up.float())

    (found,) = capture(run, torch.randn(6, 2 * N).bfloat16()).silu_mul
    assert isinstance(found, NearMiss)
    assert "is fp16, the input bf16" in found.reason


def test_a_result_in_another_16_bit_format_is_not_found(quantize, capture):
    def run(x):
        gate, up = x.chunk(2, -1)
        return quantize((functional.silu(gate.float()) * up.float()).half())

    (found,) = capture(run, torch.randn(6, 2 * N).bfloat16()).silu_mul
    assert isinstance(found, NearMiss)
    assert "the result is fp16, the input bf16" in found.reason
