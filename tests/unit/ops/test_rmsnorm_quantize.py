"""rmsnorm_quantize against exact fractions, for every kind of operand."""

import math
from fractions import Fraction

import pytest
import torch

from quantmux.config import RmsNormQuantizeConfig
from quantmux.errors import ConfigError, DtypeError, InputError, ShapeError
from quantmux.ops.agreement import agreement
from quantmux.ops.inputs import make_matrix
from quantmux.ops.quantize.reference import quantize_values
from quantmux.ops.rmsnorm_quantize.reference import rmsnorm, rmsnorm_quantize
from quantmux.ops.rmsnorm_quantize.spec import make_weight
from quantmux.ops.spec import Call


def config(operand="fp8_token", n=48, **changes):
    return RmsNormQuantizeConfig(operand=operand, n=n, **changes)


def inputs(made, m=5, seed=0, kind="normal", magnitude=1.0):
    x = make_matrix(kind, m, made.n, made.in_dtype, seed=seed, magnitude=magnitude)
    return x, make_weight(made, seed)


def one_over_root(value, f32):
    """RN(1 / sqrt(value)): 250 bits of the root are enough to round 24."""
    whole = math.isqrt(int(value * (1 << 600)))
    return f32(Fraction(1 << 300, whole))


@pytest.mark.parametrize("magnitude", [1.0, 1e-3, 1e-6, 1e4])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_every_value_is_normalized_as_written_with_each_operation_rounded(magnitude, dtype, oracle):
    made = config(in_dtype=dtype)
    x, weight = inputs(made, magnitude=magnitude)
    got, f = rmsnorm(x, weight, made.norm_eps), oracle.f32
    for row in range(5):
        values = [Fraction(float(v)) for v in x[row]]
        mean = f(sum(v * v for v in values) / made.n)
        r = one_over_root(f(mean + f(Fraction(made.norm_eps))), f)
        want = [f(f(v * r) * Fraction(float(w))) for v, w in zip(values, weight, strict=True)]
        assert [Fraction(float(v)) for v in got[row]] == want


def test_tokens_are_scaled_and_coded_after_the_norm_without_a_rounding_between(oracle):
    made = config()
    x, weight = inputs(made)
    q, values = rmsnorm_quantize(x, weight, made), rmsnorm(x, weight, made.norm_eps)
    assert not torch.equal(values, values.to(torch.bfloat16).float())
    for row in range(5):
        cells = [Fraction(float(v)) for v in values[row]]
        s = oracle.scale(max(map(abs, cells)), 448)
        assert Fraction(float(q.scales[row, 0])) == s
        for k, value in enumerate(cells):
            assert Fraction(float(q.data[row, k])) == oracle.code(value, s, oracle.e4m3)


@pytest.mark.parametrize(
    "operand", ["fp8_tensor", "fp8_group64_pow2", "int8_token", "nvfp4", "fp8_tensor_static"]
)
def test_every_operand_is_that_of_quantize(operand):
    made = config(operand, n=128, padded_n=192, padded_m_multiple=4)
    x, weight = inputs(made)
    scale = torch.tensor([0.01]) if operand.endswith("static") else None
    got = rmsnorm_quantize(x, weight, made, scale=scale)
    values = rmsnorm(x, weight, made.norm_eps)
    want = quantize_values(values, made.operand, made.layout, scale=scale)
    for a, b in zip(got.tensors(), want.tensors(), strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    assert got.data.shape[0] == 8
    assert (got.dequantize() - values).norm() < 0.2 * values.norm()


def test_norm_eps_decides_where_x_is_small_and_rows_of_zeros_stay_zero():
    made = config()
    x, weight = inputs(made, magnitude=1e-6)
    small = rmsnorm(x, weight, 1e-6)
    assert float(small.abs().max()) < 0.05
    assert float(rmsnorm(x, weight, 1e-20).abs().max()) > 0.5
    assert rmsnorm(torch.zeros_like(x), weight, 1e-30).eq(0).all()


def test_the_size_of_x_cancels_where_it_outweighs_norm_eps():
    made = config(in_dtype="fp32")
    x, weight = inputs(made, magnitude=1e3)
    assert torch.equal(rmsnorm(x, weight, 1e-12), rmsnorm(x * 64, weight, 1e-12))


def test_a_weight_may_be_fp32_where_the_config_says_so():
    made = config(fp32_weight=True)
    x, weight = inputs(made)
    assert weight.dtype == torch.float32
    q = rmsnorm_quantize(x, weight, made)
    rounded = rmsnorm_quantize(x, weight.bfloat16(), config())
    assert not torch.equal(q.scales, rounded.scales)
    with pytest.raises(DtypeError, match="weight needs fp32"):
        rmsnorm_quantize(x, weight.bfloat16(), made)
    with pytest.raises(DtypeError, match="weight needs bf16"):
        rmsnorm_quantize(x, weight, config())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_element_spoils_its_own_row_only(bad):
    made = config("fp8_group64", n=128)
    x, weight = inputs(made)
    weight[5] = 1.0
    clean = rmsnorm_quantize(x, weight, made)
    x[2, 5] = bad
    q = rmsnorm_quantize(x, weight, made)
    assert q.scales[2, 0].isnan()
    # the mean of squares is infinite, and 1 / sqrt of it 0: the other group is all zeros
    assert q.scales[2, 1].isnan() == math.isnan(bad)
    rest = [0, 1, 3, 4]
    assert torch.equal(q.scales[rest], clean.scales[rest])
    assert torch.equal(q.dequantize()[rest], clean.dequantize()[rest])


def test_no_rows_give_an_empty_matrix():
    made = config("nvfp4", n=64, layout="swizzled_128x4")
    q = rmsnorm_quantize(*inputs(made, m=0), made)
    assert q.logical_shape == (0, 64)
    q.check()


def test_refuses_wrong_inputs():
    made = config()
    x, weight = inputs(made)
    for call, error, text in (
        ((x[:, :47], weight), ShapeError, "x has the wrong width"),
        ((x.float(), weight), DtypeError, "x needs bf16"),
        ((x, weight[:47]), ShapeError, "weight has the wrong shape"),
        ((x, weight.unsqueeze(0)), ShapeError, "weight has the wrong shape"),
        ((x, weight.to("meta")), InputError, "weight is on meta"),
    ):
        with pytest.raises(error, match=text):
            rmsnorm_quantize(*call, made)
    with pytest.raises(InputError, match="computes its scales"):
        rmsnorm_quantize(x, weight, made, scale=torch.ones(1))


@pytest.mark.parametrize("bad", [0.0, -1e-6, math.inf, math.nan, 1e-40, 2.0])
def test_a_norm_eps_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError, match="norm_eps"):
        config(norm_eps=bad)


def test_another_norm_eps_or_a_rounding_before_the_scale_is_found():
    made = config(n=384)
    x, weight = inputs(made, m=33)
    call = Call((x, weight))
    assert agreement(made, call, rmsnorm_quantize(x, weight, made)).ok
    other = rmsnorm_quantize(x, weight, made.replace(norm_eps=1e-5))
    assert not agreement(made, call, other).ok
    rounded = rmsnorm(x, weight, made.norm_eps).bfloat16().float()
    assert not agreement(made, call, quantize_values(rounded, made.operand, made.layout)).ok
