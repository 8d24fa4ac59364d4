"""Block amax, scales and power-of-two rounding against exact fractions."""

import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmux.config import Block, operand
from quantmux.ops.numerics import (
    block_amax,
    expand_blocks,
    exponent_bytes,
    finite_amax,
    pow2_from_bytes,
    round_up_to_pow2,
    scale_from_amax,
)


def bits_to_float(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def all_bf16_magnitudes():
    """Every finite non-negative bf16 number as fp32."""
    return torch.arange(0x7F80, dtype=torch.int32).bitwise_left_shift(16).view(torch.float32)


@pytest.mark.parametrize(
    ("rows", "cols"), [(-1, -1), (1, -1), (1, 4), (3, 4), (2, 5), (1, 1), (7, 11)]
)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 4), (5, 13), (6, 8)])
def test_block_amax_is_the_maximum_over_what_exists_of_each_block(rows, cols, m, n):
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(m * n))
    got = block_amax(x, Block(rows=rows, cols=cols))
    r, c = (m if rows == -1 else rows), (n if cols == -1 else cols)
    assert got.shape == (math.ceil(m / r), math.ceil(n / c))
    for i in range(got.shape[0]):
        for j in range(got.shape[1]):
            cells = [
                abs(float(x[a, b]))
                for a in range(i * r, min((i + 1) * r, m))
                for b in range(j * c, min((j + 1) * c, n))
            ]
            assert float(got[i, j]) == max(cells)


def test_block_amax_reads_strided_inputs():
    x = torch.randn(6, 20)[::2, ::2]
    assert torch.equal(block_amax(x, Block(rows=1, cols=-1))[:, 0], x.abs().amax(1))


def test_block_amax_of_no_rows_is_a_zero_per_tensor_and_nothing_per_row():
    empty = torch.empty(0, 8)
    assert block_amax(empty, Block(rows=-1, cols=-1)).tolist() == [[0.0]]
    assert block_amax(empty, Block(rows=1, cols=4)).shape == (0, 2)


def test_block_amax_orders_nan_above_inf_above_finite():
    row = torch.tensor([[1.0, torch.inf, 2.0, torch.nan, -torch.inf, 3.0, 4.0, 5.0]])
    amax = block_amax(row, Block(rows=1, cols=2))[0]
    assert math.isinf(amax[0])
    assert math.isnan(amax[1])
    assert math.isinf(amax[2])
    assert float(amax[2]) > 0
    assert float(amax[3]) == 5.0


def test_finite_amax_ignores_nan_and_inf_and_is_zero_of_nothing():
    assert finite_amax(torch.tensor([[1.0, -7.0, torch.nan, -torch.inf]])).tolist() == [7.0]
    assert finite_amax(torch.tensor([torch.nan, torch.inf])).tolist() == [0.0]
    assert finite_amax(torch.empty(0, 4)).tolist() == [0.0]


@pytest.mark.parametrize("name", ["fp8_token", "int8_token"])
def test_scales_divide_truly_for_every_bf16_amax(name, oracle):
    value = operand(name)
    amax = all_bf16_magnitudes()[::7]
    got = scale_from_amax(amax, value)
    fmax = int(value.max_value)
    for a, s in zip(amax.tolist(), got.tolist(), strict=True):
        assert Fraction(s) == oracle.scale(a, fmax)


def test_dividing_differs_from_multiplying_by_the_reciprocal():
    """Guards the test above: a kernel that multiplies by 1/448 would fail it."""
    amax = all_bf16_magnitudes()[0x3F80:0x4000]
    got = scale_from_amax(amax, operand("fp8_token"))
    assert not torch.equal(got, amax * (1.0 / 448.0))


@pytest.mark.parametrize(
    ("eps", "ub"), [(1e-10, None), (0.5, None), (1e-10, 1.0), (0.3, 0.1), (1e-4, 0.25)]
)
@pytest.mark.parametrize("name", ["fp8_token", "fp8_token_pow2", "int8_token"])
def test_eps_and_scale_ub_bound_amax_in_that_order(name, eps, ub, oracle):
    value = operand(name).replace(eps=eps, scale_ub=ub)
    pow2 = value.scale_rounding == "pow2"
    amax = torch.tensor([0.0, 1e-30, 1e-5, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 1e30])
    got = scale_from_amax(amax, value)
    for a, s in zip(amax.tolist(), got.tolist(), strict=True):
        want = oracle.scale(a, value.max_value, eps=eps, ub=ub, pow2=pow2)
        assert Fraction(s) == want


@pytest.mark.parametrize("name", ["fp8_token", "fp8_token_pow2", "int8_token"])
def test_a_non_finite_amax_gives_a_nan_scale_even_under_scale_ub(name):
    value = operand(name).replace(scale_ub=1.0)
    got = scale_from_amax(torch.tensor([torch.inf, torch.nan, 1.0]), value)
    assert got.isnan().tolist() == [True, True, False]


def test_pow2_of_every_bf16_number_is_the_least_power_of_two_not_below(oracle):
    values = all_bf16_magnitudes()
    got = round_up_to_pow2(values)
    assert bool((got >= values.clamp(min=2.0**-127, max=2.0**127)).all())
    for v, p in zip(values[::5].tolist(), got[::5].tolist(), strict=True):
        assert Fraction(p) == oracle.least_pow2(Fraction(v))


@pytest.mark.parametrize("exponent", range(-126, 128))
def test_pow2_is_exact_at_powers_of_two_and_their_neighbours(exponent):
    bits = (exponent + 127) << 23
    below, at, above = (torch.tensor([bits_to_float(bits + d)]) for d in (-1, 0, 1))
    here = math.ldexp(1.0, exponent)
    assert float(round_up_to_pow2(at)) == here
    assert float(round_up_to_pow2(above)) == min(2 * here, 2.0**127)
    # below 2^-126 lie the subnormals, whose power of two is 2^-126 too
    assert float(round_up_to_pow2(below)) == here


def test_pow2_clamps_at_both_ends_and_keeps_nan():
    subnormal = [0x1, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFF]
    values = torch.tensor([0.0, *map(bits_to_float, subnormal), 3.4e38, torch.nan])
    got = round_up_to_pow2(values)
    ends = [2.0**-127] * 4 + [2.0**-126] * 2 + [2.0**127]
    assert got[:-1].tolist() == ends
    assert math.isnan(got[-1])


@settings(max_examples=300, deadline=None)
@given(st.integers(min_value=0, max_value=0x7F7FFFFF))
def test_pow2_of_any_fp32_number_is_a_power_of_two_within_a_factor_of_two(bits):
    value = bits_to_float(bits)
    got = float(round_up_to_pow2(torch.tensor([value])))
    assert math.frexp(got)[0] == 0.5
    if 2.0**-127 <= value <= 2.0**127:
        assert value <= got < 2 * value or got == value


def test_exponent_bytes_round_trip_all_255_values_and_nan():
    raw = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    values = pow2_from_bytes(raw)
    assert torch.equal(exponent_bytes(values), raw)
    assert [math.ldexp(1.0, b - 127) for b in range(255)] == values[:255].tolist()
    assert math.isnan(values[255])


def test_the_exponent_byte_of_a_padding_zero_is_zero():
    assert exponent_bytes(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("rows", "cols"), [(-1, -1), (1, -1), (1, 4), (3, 4)])
def test_expand_blocks_gives_each_element_the_scale_of_its_block(rows, cols):
    m, n = 5, 10
    block = Block(rows=rows, cols=cols)
    grid = torch.arange(math.prod(block.grid(m, n)), dtype=torch.float32)
    grid = grid.reshape(block.grid(m, n))
    got = expand_blocks(grid, block, m, n)
    assert got.shape == (m, n)
    for i in range(m):
        for j in range(n):
            at = (0 if rows == -1 else i // rows, 0 if cols == -1 else j // cols)
            assert got[i, j] == grid[at]
