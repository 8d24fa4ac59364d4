"""The shared device functions against quantmux.ops.numerics, in Triton's interpreter."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from quantmux_triton import arithmetic, numerics_kernel
from quantmux_triton.numerics_kernel import (
    exponent_byte,
    inverse_of,
    magnitude_bits,
    pow2_ceil,
    quotient,
    scale_of,
    to_code,
)

from quantmux.capability.arch import Arch
from quantmux.config import operand
from quantmux.ops import numerics

pytestmark = pytest.mark.interpreter


@triton.jit
def _codes(x, out, FORMAT: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, to_code(tl.load(x + at), FORMAT, HW=False))


@triton.jit
def _scales(x, out, eps, ub, FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
            SIZE: tl.constexpr):  # fmt: skip
    at = tl.arange(0, SIZE)
    bits = magnitude_bits(tl.load(x + at))
    tl.store(out + at, scale_of(bits, eps, ub, FMAX, HAS_UB, POW2))


@triton.jit
def _pow2(x, out, exponents, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    s = pow2_ceil(tl.load(x + at))
    tl.store(out + at, s)
    tl.store(exponents + at, exponent_byte(s))


@triton.jit
def _quotients(x, s, out, HOW: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    scale = tl.load(s + at)
    tl.store(out + at, quotient(tl.load(x + at), scale, inverse_of(scale, HOW), HOW))


def _padded(values: torch.Tensor) -> torch.Tensor:
    size = triton.next_power_of_2(values.numel())
    return torch.nn.functional.pad(values.flatten(), (0, size - values.numel()))


def _edges(dtype: torch.dtype) -> torch.Tensor:
    """Every value of a format, every middle of two neighbours, and both fp32 beside each."""
    codes = torch.arange(0x7F, dtype=torch.uint8).view(dtype).to(torch.float32)
    values = codes[codes.isfinite()].unique()
    middles = (values[1:] + values[:-1]) / 2
    limit = torch.finfo(dtype).max
    beyond = torch.tensor([limit * 1.03, limit * 1.04, limit * 2, 3e38, 1e-30, 1e-45, torch.inf])
    points = torch.cat([values, middles, beyond])
    around = [points, torch.nextafter(points, points + 1), torch.nextafter(points, -points - 1)]
    positive = torch.cat(around)
    return torch.cat([positive, -positive, torch.tensor([torch.nan, -torch.nan])])


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_software_fp8_codes_are_right_at_every_boundary_and_beside_it(name: str) -> None:
    dtype = numerics.DATA_DTYPES[name]
    values = _padded(_edges(dtype))
    out = torch.empty(values.numel(), dtype=torch.uint8)
    _codes[(1,)](values, out, FORMAT=arithmetic.FORMATS[name], SIZE=values.numel())
    want = numerics.saturating_cast(values, dtype).view(torch.uint8)
    assert torch.equal(out, want)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_software_fp8_codes_are_right_for_random_bits(name: str) -> None:
    torch.manual_seed(1)
    values = torch.randint(-(2**31), 2**31, (1 << 18,)).to(torch.int32).view(torch.float32)
    narrow = (torch.rand(1 << 18) * 2 - 1) * torch.exp2(torch.randint(-20, 10, (1 << 18,)).float())
    for given in (values, narrow):
        out = torch.empty(given.numel(), dtype=torch.uint8)
        _codes[(1,)](given, out, FORMAT=arithmetic.FORMATS[name], SIZE=given.numel())
        want = numerics.saturating_cast(given, numerics.DATA_DTYPES[name]).view(torch.uint8)
        assert torch.equal(out, want)


def test_int8_codes_round_halves_to_even_and_saturate() -> None:
    halves = torch.arange(-300, 300) / 2
    beside = [torch.nextafter(halves, halves + 1), torch.nextafter(halves, halves - 1)]
    odd = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 1e-40, -0.0, 3e38])
    values = _padded(torch.cat([halves, *beside, odd]))
    out = torch.empty(values.numel(), dtype=torch.uint8)
    _codes[(1,)](values, out, FORMAT=arithmetic.FORMATS["int8"], SIZE=values.numel())
    want = numerics.encode(values[None], torch.ones(1, 1), operand("int8_token"))
    assert torch.equal(out.view(torch.int8), want[0])


@pytest.mark.parametrize("changes", [{}, {"eps": 0.5}, {"scale_ub": 1.0},
                                     {"eps": 1e-4, "scale_ub": 0.25}])  # fmt: skip
@pytest.mark.parametrize("name", ["fp8_token", "fp8_token_pow2", "int8_token"])
def test_scales_are_those_of_the_definition(name: str, changes: dict[str, float]) -> None:
    torch.manual_seed(2)
    value = operand(name).replace(**changes)
    edges = 448 * torch.exp2(torch.arange(-40, 110).float())
    beside = [torch.nextafter(edges, edges * 0), torch.nextafter(edges, edges * 2)]
    special = torch.tensor([0.0, 1e-45, 1e-20, 3.4028235e38, torch.inf, -torch.inf, torch.nan])
    random = torch.rand(2048) * torch.exp2(torch.randint(-60, 120, (2048,)).float())
    x = _padded(torch.cat([edges, *beside, special, random]))
    out = torch.empty_like(x)
    _scales[(1,)](x, out, value.eps, value.scale_ub or 0.0, FMAX=value.max_value,
                  HAS_UB=value.scale_ub is not None, POW2=value.scale_rounding == "pow2",
                  SIZE=x.numel())  # fmt: skip
    want = numerics.scale_from_amax(x.abs(), value)
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())


def test_scales_are_rounded_up_to_powers_of_two_over_the_whole_range() -> None:
    powers = torch.exp2(torch.arange(-149, 128).double()).float()
    beside = [torch.nextafter(powers, powers * 0), torch.nextafter(powers, powers * 2)]
    ends = torch.tensor([0.0, torch.inf, torch.nan, 3.4e38])
    x = _padded(torch.cat([powers, *beside, ends]))
    out, exponents = torch.empty_like(x), torch.empty(x.numel(), dtype=torch.int32)
    _pow2[(1,)](x, out, exponents, SIZE=x.numel())
    want = numerics.round_up_to_pow2(x)
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())
    assert torch.equal(exponents.to(torch.uint8), numerics.exponent_bytes(want))


def test_dividing_by_a_power_of_two_is_multiplying_by_its_inverse() -> None:
    torch.manual_seed(3)
    s = torch.exp2(torch.randint(-126, 120, (1 << 14,)).double()).float()
    x = torch.randint(-(2**31), 2**31, (1 << 14,)).to(torch.int32).view(torch.float32)
    out = torch.empty_like(x)
    with np.errstate(all="ignore"):
        _quotients[(1,)](x, s, out, HOW=arithmetic.RECIPROCAL, SIZE=x.numel())
    want = x / s
    same = (out == want) | (out.isnan() & want.isnan())
    assert bool(same.all())


def test_the_host_picks_the_forms_that_the_device_functions_know() -> None:
    for name, number in arithmetic.FORMATS.items():
        assert getattr(numerics_kernel, name.removeprefix("fp8_").upper()).value == number
    for name in ("DIVIDE", "RECIPROCAL", "CORRECTED_ONCE", "CORRECTED_TWICE"):
        assert getattr(numerics_kernel, name).value == getattr(arithmetic, name)


def test_the_interpreter_divides_and_makes_fp8_by_integers() -> None:
    made = arithmetic.arithmetic(operand("fp8_group128"), Arch.parse("90"), bits=8)
    assert (made.how, made.hw) == (arithmetic.DIVIDE, False)
