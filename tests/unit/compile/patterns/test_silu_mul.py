"""SiLU·mul is found in every spelling that inductor shows, and only where it is SiLU·mul."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn
from torch.nn import functional

N = 32
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

HALVES = {
    "chunk": lambda x: x.chunk(2, -1),
    "split": lambda x: x.split(N, dim=-1),
    "split_sizes": lambda x: torch.split(x, [N, N], dim=x.ndim - 1),
    "slices": lambda x: (x[..., :N], x[..., N:]),
    "slices_from_the_end": lambda x: (x[..., : -x.shape[-1] // 2], x[..., -N:]),
    "narrow": lambda x: (x.narrow(-1, 0, N), x.narrow(-1, N, N)),
    "tensor_split": lambda x: x.tensor_split(2, -1),
    "unflatten_unbind": lambda x: x.unflatten(-1, (2, N)).unbind(-2),
    "view_select": lambda x: (
        x.view(*x.shape[:-1], 2, N)[..., 0, :],
        x.unflatten(-1, (2, N))[..., 1, :],
    ),
    "view_chunk_squeeze": lambda x: [h.squeeze(-2) for h in x.unflatten(-1, (2, N)).chunk(2, -2)],
}
SILU = {
    "silu": functional.silu,
    "module": nn.SiLU(),
    "x_sigmoid": lambda g: g * torch.sigmoid(g),
    "sigmoid_x": lambda g: g.sigmoid() * g,
    "x_over": lambda g: g / (1 + torch.exp(-g)),
    "x_over_turned": lambda g: g / (torch.exp(g * -1) + 1.0),
    "x_inverse": lambda g: g * (1 / (1 + torch.exp(-g))),
    "float_silu": lambda g: functional.silu(g.float()).to(g.dtype),
    "out": lambda g: torch.mul(g, torch.sigmoid(g), out=torch.empty_like(g)),
}
CASTS = ("none", "halves", "whole")
LEADS = ("2d", "3d", "flat before", "flat after", "row")


def model(
    quantize,
    halves="chunk",
    silu="silu",
    cast="none",
    lead="3d",
    *,
    up_first=False,
    gate_second=False,
):
    activation, cut = SILU[silu], HALVES[halves]

    def run(x):
        dtype = x.dtype
        if lead == "flat before":
            x = x.reshape(-1, 2 * N)
        x = x.float() if cast == "whole" else x
        gate, up = cut(x)
        gate, up = (up, gate) if gate_second else (gate, up)
        if cast == "halves":
            gate, up = gate.float(), up.float()
        y = up * activation(gate) if up_first else activation(gate) * up
        y = y.to(dtype)
        return quantize(y.reshape(-1, N) if lead == "flat after" else y)

    return run


def example(lead="3d", dtype="bf16"):
    shape = {"2d": (6, 2 * N), "row": (1, 2 * N)}.get(lead, (2, 3, 2 * N))
    return torch.randn(shape).to(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", SILU)
def test_every_spelling_of_silu_is_found(quantize, capture, check, silu, dtype):
    captured = capture(model(quantize, silu=silu), example(dtype=dtype))
    found = check(captured)
    assert (found.in_dtype, found.out_dtype, found.n) == (dtype, dtype, N)
    assert found.rounds is (dtype != "fp32")
    assert found.gate_first
    assert found.source.op == "placeholder"
    assert found.escapes == ()


@pytest.mark.parametrize("gate_second", [False, True])
@pytest.mark.parametrize("halves", HALVES)
def test_every_way_to_cut_a_tensor_in_halves_is_found(
    quantize, capture, check, halves, gate_second
):
    captured = capture(model(quantize, halves, gate_second=gate_second), example())
    found = check(captured)
    assert found.gate_first is not gate_second
    assert found.source.op == "placeholder"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("lead", LEADS)
def test_leading_dims_and_views_are_followed(quantize, capture, check, lead, dynamic):
    x = example(lead)
    dims = [(x, x.ndim - 2)] if dynamic and lead != "row" else None
    found = check(capture(model(quantize, lead=lead), x, dynamic=dims))
    shape = found.source.meta["val"].shape
    assert shape[-1] == 2 * N
    assert any(isinstance(size, torch.SymInt) for size in shape) is (dims is not None)


@pytest.mark.parametrize("cast", ["halves", "whole"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_arithmetic_in_fp32_has_no_rounding_on_the_way(quantize, capture, check, dtype, cast):
    captured = capture(model(quantize, cast=cast), example(dtype=dtype))
    found = check(captured)
    assert found.in_dtype == found.out_dtype == dtype
    assert not found.rounds


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # each example is a compilation: a failure is not made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(sorted(HALVES)),
    st.sampled_from(sorted(SILU)),
    st.sampled_from(CASTS),
    st.sampled_from(LEADS),
    st.sampled_from(sorted(DTYPES)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.1, 1.0, 8.0]),
)
def test_whatever_is_found_computes_the_same(
    quantize, capture, check, halves, silu, cast, lead, dtype, up_first, gate_second, dynamic, scale
):
    run = model(quantize, halves, silu, cast, lead, up_first=up_first, gate_second=gate_second)
    x = example(lead, dtype)
    dims = [(x, x.ndim - 2)] if dynamic and lead != "row" else None
    found = check(capture(run, x, dynamic=dims), scale=scale)
    assert found.gate_first is not gate_second
    assert found.in_dtype == dtype


def test_a_symbolic_width_is_none(quantize, capture):
    x = example()
    captured = capture(model(quantize, lead="flat after"), x, dynamic=[(x, 2)])
    assert captured.silu_mul == [None]


def test_two_tensors_are_told_from_halves(quantize, capture, check):
    def run(gate, up):
        return quantize(functional.silu(gate * 2) * up)

    captured = capture(run, example()[..., :N].clone(), example()[..., :N].clone())
    found = check(captured)
    assert found.source is None
    assert found.up.op == "placeholder"


def test_a_half_and_a_whole_are_a_near_miss_that_names_both(quantize, capture):
    def run(x, up):
        return quantize(functional.silu(x[..., :N]) * up)

    (found,) = capture(run, example(), example()[..., N:].clone()).silu_mul
    assert str(found).startswith(
        "silu_mul: gate is columns 0..32 of arg0_1 (64 wide), up is all of"
    )


def test_the_middle_of_a_wider_tensor_is_a_source_where_it_is_one_tensor(quantize, capture, check):
    def run(x):
        _first, both = x.split([16, 2 * N], -1)
        return quantize(functional.silu(both[..., :N]) * both[..., N:])

    found = check(capture(run, torch.randn(6, 16 + 2 * N).bfloat16()))
    assert found.source.meta["val"].shape == (6, 2 * N)


def test_values_that_are_read_elsewhere_are_escapes_and_views_are_none(quantize, capture, check):
    def run(x):
        gate, up = x.chunk(2, -1)
        activated = functional.silu(gate)
        return quantize(activated * up), activated + 1, up + 1

    found = check(capture(run, example()))
    (escape,) = found.escapes
    assert escape.target is torch.ops.prims.convert_element_type.default  # of silu(gate)
    assert len(found.interior) == 9


def test_the_whole_of_inductor_runs_behind_it(quantize, capture, check):
    captured = capture(model(quantize), example(), stop=False)
    assert check(captured).rounds
