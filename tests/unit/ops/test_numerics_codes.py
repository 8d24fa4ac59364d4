"""Codes: fp8, int8, E2M1, NVFP4 scales, and the one rounding of fp64, against exact fractions."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmux.config import operand
from quantmux.ops.numerics import (
    decode_e2m1,
    encode,
    encode_e2m1,
    encode_nvfp4,
    nvfp4_block_scales,
    nvfp4_global_scale,
    pack_fp4,
    round_once,
    saturating_cast,
    unpack_fp4,
)

FP8 = {
    "e4m3": (torch.float8_e4m3fn, 0x7F, 448.0),
    "e5m2": (torch.float8_e5m2, 0x7C, 57344.0),
}


def finite_values(oracle, name):
    """Every non-negative finite value of an fp8 format, ascending, by the oracle's decoder."""
    decode = getattr(oracle, f"decode_{name}")
    return [decode(byte) for byte in range(FP8[name][1])]


@pytest.mark.parametrize("name", FP8)
def test_every_finite_fp8_value_encodes_to_its_own_code(name, oracle):
    dtype, count, _ = FP8[name]
    values = torch.tensor([float(v) for v in finite_values(oracle, name)])
    assert saturating_cast(values, dtype).view(torch.uint8).tolist() == list(range(count))
    signed = saturating_cast(-values, dtype).view(torch.uint8)
    assert signed.tolist() == [128 + b for b in range(count)]


@pytest.mark.parametrize("name", FP8)
def test_every_fp8_tie_goes_to_the_even_code_and_its_neighbours_do_not(name, oracle):
    dtype = FP8[name][0]
    values = finite_values(oracle, name)
    ties = torch.tensor([float((a + b) / 2) for a, b in itertools.pairwise(values)])
    codes = saturating_cast(ties, dtype).view(torch.uint8)
    below = saturating_cast(torch.nextafter(ties, torch.zeros(())), dtype).view(torch.uint8)
    above = saturating_cast(torch.nextafter(ties, torch.tensor(1e9)), dtype).view(torch.uint8)
    assert codes.tolist() == [i + i % 2 for i in range(len(ties))]
    assert below.tolist() == list(range(len(ties)))
    assert above.tolist() == list(range(1, len(ties) + 1))


@pytest.mark.parametrize("name", FP8)
def test_fp8_saturates_beyond_its_range_and_keeps_nan(name):
    dtype, _, limit = FP8[name]
    beyond = torch.tensor([limit * 1.03, limit * 1.5, 1e30, torch.inf])
    assert saturating_cast(beyond, dtype).float().tolist() == [limit] * 4
    assert saturating_cast(-beyond, dtype).float().tolist() == [-limit] * 4
    nan = torch.tensor([torch.nan, -torch.nan])
    assert saturating_cast(nan, dtype).view(torch.uint8).tolist() == [0x7F, 0x7F]
    assert saturating_cast(nan, dtype).float().isnan().all()


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, min_value=-500, max_value=500))
def test_fp8_codes_agree_with_exact_rounding(value):
    got = saturating_cast(torch.tensor([value], dtype=torch.float32), torch.float8_e4m3fn)
    nearest = min(
        (abs(Fraction(float(v)) - Fraction(value)), float(v))
        for v in torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float().tolist()
        if not math.isnan(v)
    )[0]
    assert abs(Fraction(float(got.float())) - Fraction(value)) == nearest


def test_int8_rounds_halves_to_even_clamps_and_reads_nan_as_zero():
    value = operand("int8_tensor_static")
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.0, 1e9, -torch.inf]])
    got = encode(x, torch.ones(()), value)
    assert got.dtype == torch.int8
    assert got.tolist() == [[0, 2, 2, 0, -2, 126, 127, -127, 127, -127]]
    assert encode(torch.tensor([[torch.nan]]), torch.ones(()), value).tolist() == [[0]]


def test_codes_divide_by_the_scale_truly(oracle):
    value = operand("fp8_token")
    x = torch.randn(1, 400, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([0.0071234])
    got = encode(x, scale, value).float()[0].tolist()
    s = Fraction(float(scale))
    assert [Fraction(v) for v in got] == [oracle.code(v, s, oracle.e4m3) for v in x[0].tolist()]


@pytest.mark.parametrize(
    ("value", "code"),
    [(0.0, 0), (0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6), (9e9, 7)],
)
def test_e2m1_ties_go_to_the_even_code(value, code):
    assert encode_e2m1(torch.tensor([value])).tolist() == [code]
    assert encode_e2m1(torch.tensor([-value])).tolist() == [code | 8]


@pytest.mark.parametrize("tie", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
def test_e2m1_decides_exactly_at_the_neighbours_of_every_threshold(tie):
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    lower = max(i for i, v in enumerate(values) if v < tie)
    at = torch.tensor([tie])
    assert encode_e2m1(torch.nextafter(at, torch.zeros(1))).tolist() == [lower]
    assert encode_e2m1(torch.nextafter(at, torch.full((1,), 9.0))).tolist() == [lower + 1]


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False, min_value=-8, max_value=8))
def test_e2m1_agrees_with_exact_rounding(value):
    got = int(encode_e2m1(torch.tensor([value], dtype=torch.float32)))
    magnitudes = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    exact = Fraction(min(abs(value), 6.0))
    distance = [abs(exact - Fraction(v)) for v in magnitudes]
    best = [i for i, d in enumerate(distance) if d == min(distance)]
    want = best[0] if len(best) == 1 else next(i for i in best if i % 2 == 0)
    assert got & 7 == want
    assert bool(got & 8) == (math.copysign(1.0, value) < 0)


def test_e2m1_decodes_every_code(oracle):
    got = decode_e2m1(torch.arange(16, dtype=torch.uint8)).tolist()
    assert got == [*oracle.e2m1_values, *(-v for v in oracle.e2m1_values)]


def test_fp4_packs_the_even_column_into_the_low_nibble():
    codes = torch.tensor([[1, 2, 3, 4], [15, 0, 0, 15]], dtype=torch.uint8)
    packed = pack_fp4(codes)
    assert packed.tolist() == [[0x21, 0x43], [0x0F, 0xF0]]
    assert torch.equal(unpack_fp4(packed), codes)


@pytest.mark.parametrize("magnitude", [1e-30, 2.0**-61, 1e-8, 1e-4, 1.0, 1e4, 1e38])
def test_the_nvfp4_global_scale_is_a_true_division_above_its_floor(magnitude, oracle):
    x = torch.tensor([[0.3 * magnitude, -magnitude]])
    got = nvfp4_global_scale(x)
    assert Fraction(float(got)) == oracle.nvfp4_global(abs(float(x[0, 1])))


def test_the_nvfp4_global_scale_of_zeros_is_one():
    assert nvfp4_global_scale(torch.zeros(2, 16)).tolist() == [1.0]
    assert nvfp4_global_scale(torch.empty(0, 16)).tolist() == [1.0]


def test_the_nvfp4_global_scale_ignores_what_is_not_finite():
    x = torch.tensor([[1.0, torch.nan], [-torch.inf, -2.0]])
    assert torch.equal(nvfp4_global_scale(x), nvfp4_global_scale(torch.tensor([[1.0, -2.0]])))


@pytest.mark.parametrize("g", [1.0, 3.7e-4, 2.0**-70, 1e-3])
def test_nvfp4_block_scales_and_codes_agree_with_exact_fractions(g, oracle):
    gs = torch.tensor([g], dtype=torch.float32)
    exact_g = Fraction(float(gs))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(16, 16, generator=generator) * 2688 * g
    x *= torch.exp2(-torch.arange(16.0))[:, None]  # block scales down to e4m3's subnormals
    amax = x.abs().amax(1, keepdim=True)
    scales = nvfp4_block_scales(amax, gs)
    codes = decode_e2m1(encode_nvfp4(x, scales, gs))
    for i in range(16):
        s = oracle.nvfp4_scale(float(amax[i]), exact_g)
        assert Fraction(float(scales[i].float())) == s
        for j in range(16):
            assert Fraction(float(codes[i, j])) == oracle.nvfp4_code(float(x[i, j]), s, exact_g)


def test_nvfp4_block_scales_saturate_are_zero_for_zeros_and_nan_for_non_finite():
    amax = torch.tensor([[1e9, 0.0, torch.inf, torch.nan]])
    scales = nvfp4_block_scales(amax, torch.ones(1))
    assert scales.view(torch.uint8).tolist() == [[0x7E, 0x00, 0x7F, 0x7F]]


def test_nvfp4_codes_are_zero_without_a_sign_where_the_scale_is_zero():
    x = torch.full((1, 32), -1e-9)
    scales = torch.tensor([[0.0, 1.0]]).to(torch.float8_e4m3fn)
    codes = encode_nvfp4(x, scales, torch.ones(1))[0].tolist()
    assert codes == [0] * 16 + [8] * 16


@pytest.mark.parametrize(
    ("dtype", "mantissa", "least"), [(torch.bfloat16, 7, -126), (torch.float16, 10, -14)]
)
def test_fp64_is_rounded_once(dtype, mantissa, least, oracle):
    # just above a tie of the 16-bit format, by less than half an ulp of fp32
    ties = [(1 + (i + 0.5) * 2.0**-mantissa) * (1 + 2.0**-40) for i in range(50)]
    values = torch.tensor([s * t for t in ties for s in (1.0, -1.0)], dtype=torch.float64)
    got = round_once(values, dtype).double().tolist()
    want = [oracle.round_to(Fraction(v), mantissa, least) for v in values.tolist()]
    assert [Fraction(v) for v in got] == want
    assert values.to(dtype).double().tolist() != got  # torch alone rounds twice


@settings(max_examples=300, deadline=None)
@given(st.floats(min_value=-6e4, max_value=6e4), st.sampled_from(["bf16", "fp16", "fp32"]))
def test_rounding_once_agrees_with_exact_rounding(value, name):
    dtype, mantissa, least = {
        "bf16": (torch.bfloat16, 7, -126),
        "fp16": (torch.float16, 10, -14),
        "fp32": (torch.float32, 23, -126),
    }[name]
    got = Fraction(float(round_once(torch.tensor([value], dtype=torch.float64), dtype)))
    quantum = Fraction(2) ** (max(math.frexp(value)[1] - 1, least) - mantissa)
    assert got == round(Fraction(value) / quantum) * quantum


def test_rounding_once_keeps_nan_and_infinity():
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300], dtype=torch.float64)
    got = round_once(values, torch.bfloat16)
    assert got.isnan().tolist() == [True, False, False, False]
    assert got[1:].tolist() == [math.inf, -math.inf, math.inf]
