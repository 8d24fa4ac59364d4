"""RMSNorm is found in the spellings of torch and of models, and only where it is RMSNorm."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import nn
from torch.nn import functional

from quantmux.compile.patterns import NearMiss, RmsNorm

N = 64
EPS = 1e-5
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def torch_s(x, w):
    return functional.rms_norm(x, (N,), w, EPS)


def llama(x, w):
    h = x.to(torch.float32)
    variance = h.pow(2).mean(-1, keepdim=True)
    h = h * torch.rsqrt(variance + EPS)
    return w * h.to(x.dtype)


def weight_in_fp32(x, w):
    h = x.float()
    h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + EPS)
    return (h * w.float()).to(x.dtype)


def type_as(x, w):
    def norm(y):
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS)

    return norm(x.float()).type_as(x) * w


def mean_of_product(x, w):
    h = x.float()
    return (w.float() * (h / torch.sqrt((h * h).mean(dim=-1, keepdim=True) + EPS))).to(x.dtype)


def sum_over_n(x, w):
    h = x.float()
    return (h * (h.pow(2).sum(-1, keepdim=True) / N + EPS).pow(-0.5) * w.float()).to(x.dtype)


def inverse_of_root(x, w):
    h = x.float()
    return (h * (1 / torch.sqrt(EPS + h.pow(2).mean(-1, True))) * w.float()).to(x.dtype)


def unsqueezed(x, w):
    h = x.float()
    return (torch.rsqrt(h.square().mean(-1) + EPS).unsqueeze(-1) * h * w.float()).to(x.dtype)


def wide_weight(x, w):
    return weight_in_fp32(x, w.view(1, N))


def expanded_weight(x, w):
    return weight_in_fp32(x, w.expand(x.shape))


def t5(x, w):
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    y = x * torch.rsqrt(variance + EPS)
    return w * y.to(w.dtype)


def olmo(x, w):
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return (w * h).to(x.dtype)


def in_place(x, w):
    h = x.float()
    h *= torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return h.to(x.dtype).mul_(w)


SPELLINGS = (
    torch_s,
    llama,
    weight_in_fp32,
    type_as,
    mean_of_product,
    sum_over_n,
    inverse_of_root,
    unsqueezed,
    wide_weight,
    expanded_weight,
    t5,
    olmo,
    in_place,
)
BARE = {
    "torch_s": lambda x: functional.rms_norm(x, (N,), None, EPS),
    "written": lambda x: (
        x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + EPS)
    ).to(x.dtype),
}


def example(dtype="bf16", shape=(2, 3, N)):
    x, w = torch.randn(shape), torch.randn(N)
    return x.to(DTYPES[dtype]), w.to(DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_found(quantize, capture, check, spelling, dtype):
    captured = capture(lambda x, w: quantize(spelling(x, w)), *example(dtype))
    found = check(captured)
    assert (found.in_dtype, found.out_dtype, found.n) == (dtype, dtype, N)
    assert found.eps == pytest.approx(EPS, rel=1e-7)
    assert found.weight.meta["val"].shape == (N,)
    assert found.source.op == found.weight.op == "placeholder"
    assert not found.fp32_weight
    assert found.escapes == ()
    rounding = spelling in (llama, type_as, t5, in_place) and dtype != "fp32"
    assert found.roundings == (("normalized",) if rounding else ())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spelling", BARE)
def test_a_norm_without_weight_is_found(quantize, capture, check, spelling, dtype):
    captured = capture(lambda x: quantize(BARE[spelling](x)), example(dtype)[0])
    found = check(captured)
    assert found.weight is None
    assert found.roundings == ()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_module_of_torch_is_found(quantize, capture, check, dtype):
    norm = nn.RMSNorm(N, eps=EPS, dtype=DTYPES[dtype])
    found = check(capture(lambda x: quantize(norm(x)), example(dtype)[0]))
    assert found.weight is not None


def test_eps_of_none_is_the_one_of_torch(quantize, capture, check):
    norm = nn.RMSNorm(N, dtype=torch.bfloat16)
    found = check(capture(lambda x: quantize(norm(x)), example()[0]))
    assert found.eps == torch.finfo(torch.float32).eps


@pytest.mark.parametrize("spelling", [llama, weight_in_fp32])
def test_a_weight_in_fp32_is_told(quantize, capture, check, spelling):
    x, w = example()
    captured = capture(lambda x, w: quantize(spelling(x, w)), x, w.float())
    found = check(captured)
    assert found.fp32_weight
    assert found.out_dtype == ("fp32" if spelling is llama else "bf16")


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_a_weight_in_fp32_is_told_of_torch_s(quantize, capture, check):
    x, w = example()
    captured = capture(lambda x, w: quantize(torch_s(x, w)), x, w.float())
    assert check(captured).fp32_weight


def test_the_source_is_the_sum_with_the_residual(quantize, capture, check):
    def run(x, w, residual):
        residual = residual + x
        return quantize(llama(residual, w).reshape(-1, N)), residual

    x, w = example()
    found = check(capture(run, x, w, x.clone()))
    assert found.source.target is torch.ops.aten.add.Tensor
    assert found.escapes == ()  # the sum is the input, so that its other reader does not matter


def test_a_part_of_a_wider_tensor_is_a_source(quantize, capture, check):
    def run(x, w):
        q, _rest = x.split([N, 32], dim=-1)
        return quantize(llama(q, w))

    found = check(capture(run, *example(shape=(6, N + 32))))
    assert found.source.meta["val"].shape == (6, N)


def test_a_normalized_value_that_is_read_elsewhere_is_an_escape(quantize, capture, check):
    def run(x, w):
        h = x.float()
        r = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
        return quantize((h * r * w.float()).to(x.dtype)), r, h

    found = check(capture(run, *example()))
    assert [node.target for node in found.escapes] == [torch.ops.aten.rsqrt.default]


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # each example is a compilation: a failure is not made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(SPELLINGS),
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from([(6, N), (2, 3, N), (1, N), (2, 1, 3, N)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_whatever_is_found_computes_the_same(
    quantize, capture, check, spelling, dtype, shape, flat, dynamic, scale
):
    x, w = example(dtype, shape)
    dims = [(x, x.ndim - 2)] if dynamic and shape[-2] != 1 else None

    def run(x, w):
        y = spelling(x, w)
        return quantize(y.reshape(-1, N) if flat else y)

    found = check(capture(run, x, w, dynamic=dims), scale=scale)
    symbolic = any(isinstance(s, torch.SymInt) for s in found.source.meta["val"].shape)
    assert symbolic is (dims is not None)


def layer_norm(x, w):
    return functional.layer_norm(x, (N,), w)


def gemma(x, w):
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return (h * (1.0 + w.float())).to(x.dtype)


def gemma_rounded(x, w):
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return h.to(x.dtype) * (1.0 + w)


def eps_outside(x, w):
    h = x.float()
    return (h / (h.pow(2).mean(-1, keepdim=True).sqrt() + EPS) * w.float()).to(x.dtype)


def no_eps(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True)) * w.float()).to(x.dtype)


def eps_of_a_tensor(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + w[0].float()) * w.float()).to(x.dtype)


def per_head(x, w):
    y = functional.rms_norm(x.unflatten(-1, (4, 16)), (16,), w[:16], EPS)
    return y.flatten(-2)


def over_rows(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(0, keepdim=True) + EPS) * w.float()).to(x.dtype)


def over_all(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean((0, 1), keepdim=True) + EPS) * w.float()).to(x.dtype)


def of_another(x, w):
    h = x.float()
    return (h * torch.rsqrt((h + 1).pow(2).mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def over_a_part(x, w):
    h = x.float()
    return (h * torch.rsqrt(h[:, :32].pow(2).mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def cubes(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(4).mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def absolute(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.abs().mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def l2(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).sum(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def sum_over_another(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).sum(-1, keepdim=True) / 63 + EPS) * w.float()).to(x.dtype)


def root_without_inverse(x, w):
    h = x.float()
    return (h * torch.sqrt(h.pow(2).mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def divided_by_inverse(x, w):
    h = x.float()
    return (h / torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS) * w.float()).to(x.dtype)


def half_statistics(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def half_root(x, w):
    h = x.float()
    r = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS).to(x.dtype)
    return x * r * w


def biased(x, w):
    return torch_s(x, w) + w


def gated(x, w):
    return torch_s(x, w) * functional.silu(x)


def weight_per_row(x, w):
    h = x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype) * w[:6].unsqueeze(1)


def weight_first(x, w):
    h = x.float()
    r = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return (h * w.float() * r).to(x.dtype)


def norm_of_the_unrounded_sum(x, w):
    h = x.float() + x.float().sin()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return h.to(x.dtype) * w


LOOK_ALIKES = {
    layer_norm: "LayerNorm",
    gemma: "1 + w",
    gemma_rounded: "1 + w",
    eps_outside: "eps is added to the root",
    no_eps: "nothing is added",
    eps_of_a_tensor: "no literal",
    per_head: "over 16 columns, the rows quantized have 64",
    over_rows: None,
    over_all: None,
    of_another: "another tensor",
    over_a_part: None,
    cubes: None,
    absolute: None,
    l2: None,
    sum_over_another: None,
    root_without_inverse: None,
    divided_by_inverse: None,
    half_statistics: "computed in bf16",
    half_root: "computed in bf16",
    biased: "add afterwards",
    gated: "mul afterwards",
    weight_per_row: "mul afterwards",
    weight_first: "another tensor",
    norm_of_the_unrounded_sum: "the input fp32",
}
"""The function and words of the reason; None where nothing need be said."""


@pytest.mark.parametrize("function", LOOK_ALIKES)
def test_a_look_alike_is_not_found(quantize, capture, function):
    words = LOOK_ALIKES[function]
    captured = capture(lambda x, w: quantize(function(x, w)), *example(shape=(6, N)))
    (found,) = captured.rmsnorm
    assert not isinstance(found, RmsNorm)
    if words:
        assert isinstance(found, NearMiss)
        assert words in found.reason


def test_the_mean_over_the_rows_of_a_square_is_not_that_of_its_columns(quantize, capture):
    def run(x, w):
        h = x.float()
        per_column = torch.rsqrt(h.pow(2).mean(0) + EPS)
        return quantize((h * per_column.unsqueeze(-1) * w.float()).to(x.dtype))

    (found,) = capture(run, *example(shape=(N, N))).rmsnorm
    assert not isinstance(found, RmsNorm)
