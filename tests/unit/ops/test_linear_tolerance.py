"""The tolerance of linear lets rounding pass and catches what is wrong."""

import dataclasses
import math

import pytest
import torch

from quantmux.config import LinearConfig
from quantmux.errors import NumericsError, ShapeError
from quantmux.ops.linear.reference import linear, linear_exact
from quantmux.ops.linear.spec import make_inputs
from quantmux.ops.linear.tolerance import Magnitude, compare, linear_magnitude, ulp
from quantmux.ops.spec import Case

SCHEMES = (
    "fp8_channel_token",
    "fp8_block128+exact",
    "fp8_w8a16",
    "nvfp4_dynamic",
    "int8_channel_token",
)
KINDS = ("normal", "positive", "outliers", "one_hot", "equal")


def setting(scheme, *, kind="normal", m=9, n=48, k=512, bias=False, **changes):
    config = LinearConfig.model_validate(
        {"in_features": k, "out_features": n, "scheme": scheme, "bias": bias, **changes}
    )
    x, weights = make_inputs(Case(config, m, kind), "cpu", 3).args
    exact = linear_exact(x, weights, config)
    return config, x, weights, exact, linear_magnitude(x, weights, config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("out_dtype", ["bf16", "fp16", "fp32"])
def test_the_reference_agrees_with_itself_rounded_or_not(scheme, kind, out_dtype):
    config, x, weights, exact, magnitude = setting(
        scheme, kind=kind, out_dtype=out_dtype, bias=True
    )
    y = linear(x, weights, config)
    for reference in (exact, y):
        found = compare(y, reference, config=config, magnitude=magnitude)
        assert found.ok
        assert found.worst <= 1.0
        assert found.first_bad is None
        assert found.rel_error <= found.tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_all_zero_output_is_refused(scheme, kind):
    config, _, _, exact, magnitude = setting(scheme, kind=kind)
    zeros = torch.zeros(exact.shape, dtype=torch.bfloat16)
    found = compare(zeros, exact, config=config, magnitude=magnitude)
    assert not found.ok
    assert found.rel_error == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [*KINDS, "large_bias"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_dropped_bias_is_refused(scheme, kind):
    config, x, weights, exact, magnitude = setting(scheme, kind=kind, bias=True)
    without = linear(x, dataclasses.replace(weights, bias=None), config.replace(bias=False))
    assert not compare(without, exact, config=config, magnitude=magnitude).ok


@pytest.mark.parametrize("scheme", ["fp8_w8a16", "nvfp4_dynamic", "int8_channel_token"])
def test_a_bias_added_after_rounding_is_refused(scheme):
    """Shown by a bias that cancels a row; below the noise of a short accumulator it cannot be."""
    config, x, weights, exact, _ = setting(scheme, kind="large_bias", bias=True)
    cancelling = (weights.bias.double() - exact[0]).float()
    weights = dataclasses.replace(weights, bias=cancelling)
    exact = linear_exact(x, weights, config)
    magnitude = linear_magnitude(x, weights, config)
    bare = linear(x, dataclasses.replace(weights, bias=None), config.replace(bias=False))
    late = (bare.float() + weights.bias).to(torch.bfloat16)
    assert not compare(late, exact, config=config, magnitude=magnitude).ok


@pytest.mark.parametrize("factor", [0.94, 1.06, -1.0, 2.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_scale_is_refused(scheme, factor):
    config, _, _, exact, magnitude = setting(scheme)
    y = (exact * factor).to(torch.bfloat16)
    assert not compare(y, exact, config=config, magnitude=magnitude).ok


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_single_wrong_element_is_refused_and_named(scheme):
    config, x, weights, exact, magnitude = setting(scheme)
    y = linear(x, weights, config)
    y[4, 7] += 0.25 * float(exact.abs().max())
    found = compare(y, exact, config=config, magnitude=magnitude)
    assert not found.ok
    assert found.first_bad.coordinate == (4, 7)
    assert found.first_bad.value == float(y[4, 7])
    assert found.first_bad.reference == float(exact[4, 7])
    assert found.first_bad.ulp > 0
    with pytest.raises(NumericsError, match="acme/gemm") as error:
        found.require("acme/gemm")
    assert "[4, 7]" in str(error.value)


def test_one_ulp_off_is_refused_where_sums_are_exact():
    config, x, weights, exact, magnitude = setting("int8_channel_token")
    y = linear(x, weights, config)
    off = (y.view(torch.int16) + 1).view(torch.bfloat16)
    assert not compare(off, exact, config=config, magnitude=magnitude).ok


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_output_is_refused(bad):
    config, x, weights, exact, magnitude = setting("fp8_channel_token")
    y = linear(x, weights, config)
    y[2, 3] = bad
    found = compare(y, exact, config=config, magnitude=magnitude)
    assert not found.ok
    assert found.first_bad.coordinate == (2, 3)


def test_nan_belongs_where_the_reference_has_it():
    config, x, weights, _, _ = setting("fp8_channel_token")
    x[1, 1] = torch.nan
    exact = linear_exact(x, weights, config)
    magnitude = linear_magnitude(x, weights, config)
    y = linear(x, weights, config)
    assert compare(y, exact, config=config, magnitude=magnitude).ok
    y[1, 0] = 1.0
    found = compare(y, exact, config=config, magnitude=magnitude)
    assert found.first_bad.coordinate == (1, 0)


def test_an_overflow_to_infinity_agrees_when_the_reference_overflows():
    config, _, _, exact, magnitude = setting("fp8_w8a16", out_dtype="fp16")
    big = exact * 1e6
    y = big.clamp(-1e30, 1e30).to(torch.float16)
    assert y.isinf().any()
    assert compare(y, big, config=config, magnitude=magnitude).ok
    wrong = torch.where(y.isinf(), -y, y)
    assert not compare(wrong, big, config=config, magnitude=magnitude).ok
    saturated = torch.where(y.isinf(), torch.tensor(1.0, dtype=torch.float16), y)
    assert not compare(saturated, big, config=config, magnitude=magnitude).ok


def test_fp32_accumulation_in_another_order_passes():
    for kind in KINDS:
        config, x, weights, exact, magnitude = setting(
            "fp8_w8a16", kind=kind, k=2048, out_dtype="fp32"
        )
        scaled = weights.data.float() * weights.scales
        y = torch.zeros(exact.shape)
        for start in range(0, 2048, 64):
            y += x.float()[:, start : start + 64] @ scaled[:, start : start + 64].T
        assert compare(y, exact, config=config, magnitude=magnitude).ok


def test_bf16_accumulation_is_refused():
    config, x, weights, exact, magnitude = setting("fp8_w8a16", kind="positive", k=2048)
    scaled = weights.data.float() * weights.scales
    y = torch.zeros(exact.shape, dtype=torch.bfloat16)
    for start in range(0, 2048, 64):
        y += (x.float()[:, start : start + 64] @ scaled[:, start : start + 64].T).bfloat16()
    assert not compare(y, exact, config=config, magnitude=magnitude).ok


def short_accumulator(a, b, promote):
    """Add products in chunks of 32, each truncated 13 bits below the largest addend."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
    acc = torch.zeros_like(total)
    for step, start in enumerate(range(0, a.shape[1], 32)):
        products = a[:, None, start : start + 32] * b[None, :, start : start + 32]
        addends = torch.cat((acc[..., None], products), dim=-1)
        _, exponent = torch.frexp(addends.abs().amax(-1, keepdim=True))
        unit = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent - 14)
        acc = (torch.trunc(addends / unit) * unit).sum(-1)
        if promote and step % 4 == 3:
            total, acc = total + acc, torch.zeros_like(acc)
    return total + acc


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [128, 512, 2048])
def test_the_short_accumulator_passes_as_fast_and_with_promotion_as_exact(kind, k):
    for scheme, promote in (("fp8_channel_token", False), ("fp8_channel_token+exact", True)):
        config, x, weights, exact, magnitude = setting(
            scheme, kind=kind, m=5, n=16, k=k, out_dtype="fp32"
        )
        amax = x.float().abs().amax(1, keepdim=True)
        s = torch.clamp(amax, min=1e-10) / torch.tensor(448.0)
        codes = (x.float() / s).to(torch.float8_e4m3fn)
        y = short_accumulator(codes.double(), weights.data.double(), promote)
        y = y * s.double() * weights.scales.double().T
        assert compare(y.float(), exact, config=config, magnitude=magnitude).ok


def test_the_short_accumulator_without_promotion_is_refused_as_exact():
    config, x, weights, _, _ = setting(
        "fp8_channel_token+exact", kind="equal", m=5, n=16, k=2048, out_dtype="fp32"
    )
    same = dataclasses.replace(weights, data=torch.full((16, 2048), 1.875).to(torch.float8_e4m3fn))
    exact = linear_exact(x, same, config)
    magnitude = linear_magnitude(x, same, config)
    codes = torch.full((5, 2048), 448.0, dtype=torch.float64)
    s = (torch.tensor(1.0) / torch.tensor(448.0)).double()
    y = short_accumulator(codes, same.data.double(), promote=False)
    y = (y * s * same.scales.double().T).float()
    assert not compare(y, exact, config=config, magnitude=magnitude).ok


def test_no_rows_agree():
    config, x, weights, exact, magnitude = setting("nvfp4_dynamic", m=0)
    found = compare(linear(x, weights, config), exact, config=config, magnitude=magnitude)
    assert found.ok
    assert found.rel_error == 0.0


def test_refuses_shapes_that_differ():
    config, _, _, exact, magnitude = setting("fp8_w8a16")
    with pytest.raises(ShapeError, match="differ in shape"):
        compare(torch.zeros(3, 3), exact, config=config, magnitude=magnitude)


def test_a_plain_sum_of_magnitudes_serves_too():
    config, x, weights, exact, magnitude = setting("fp8_channel_token")
    y = linear(x, weights, config)
    assert compare(y, exact, config=config, magnitude=magnitude.total).ok
    want = x.abs().double() @ (weights.data.double() * weights.scales.double()).abs().T
    assert ((magnitude.total - want).abs() <= 0.05 * want).all()
    assert (magnitude.spread <= magnitude.total * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("dtype", "value", "want"),
    [
        (torch.bfloat16, 1.0, 2.0**-7),
        (torch.bfloat16, 1.99, 2.0**-7),
        (torch.bfloat16, 2.0, 2.0**-6),
        (torch.bfloat16, 0.0, 2.0**-133),
        (torch.float16, 1.0, 2.0**-10),
        (torch.float16, 1e-7, 2.0**-24),
        (torch.float32, 1.5, 2.0**-23),
    ],
)
def test_ulp_is_the_spacing_of_the_format(dtype, value, want):
    assert float(ulp(torch.tensor([value], dtype=torch.float64), dtype)) == want


def test_small_products_beside_a_lone_large_one_may_all_lose_the_same_way():
    """DeepGEMM on an H200: -320 and 111 small products of +1.44 in all gave -319, hence bf16 -320.

    The accumulator cuts every product 13 bits below the largest, 2^-5 here; most are smaller.
    """
    config = LinearConfig(in_features=112, out_features=8, scheme="fp8_block128+exact")
    want = torch.full((1, 8), -318.5579, dtype=torch.float64)
    size = Magnitude(torch.full_like(want, 327.0178), torch.full_like(want, 320.0017))
    seen = torch.full((1, 8), -318.0, dtype=torch.bfloat16)
    seen[0, 3] = -320.0
    assert compare(seen, want, config=config, magnitude=size).ok
    seen[0, 3] = -322.0
    assert not compare(seen, want, config=config, magnitude=size).ok
