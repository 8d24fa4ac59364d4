"""The shared device functions against quantmux.ops.numerics, in Triton's interpreter."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from quantmux.capability.arch import Arch
from quantmux.config import operand
from quantmux.ops import numerics
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

pytestmark = pytest.mark.interpreter

FORMS = (
    "DIVIDE",
    "RECIPROCAL",
    "CORRECTED_ONCE",
    "CORRECTED_TWICE",
    "GUARDED_ONCE",
    "GUARDED_TWICE",
)


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


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Give a * b + c of fp32 arrays with one rounding, as GPUs do it.

    The product is exact in fp64. The sum is rounded to odd there: with 53 bits, that leaves the
    rounding to 24 as it would be from the exact sum.
    """
    product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + c
    back = total - product
    rest = (product - (total - back)) + (c - back)
    bits = total.view(np.int64)
    towards = np.where((rest > 0) == (total > 0), 1, -1)
    odd = np.where((rest != 0) & (bits & 1 == 0), bits + towards, bits)
    return odd.view(np.float64).astype(np.float32)


def _corrected(x: np.ndarray, s: np.ndarray, times: int) -> np.ndarray:
    y = np.float32(1) / s
    q = x * y
    for _ in range(times):
        q = _fma(_fma(q, s, -x), -y, q)
    return q


def _near_middles(x: np.ndarray, middle: np.ndarray) -> Iterator[np.ndarray]:
    """Give the scales whose quotient lies at a middle, or just beside it."""
    s = (x.astype(np.float64) / middle).astype(np.float32)
    for step in range(-3, 4):
        yield (s.view(np.int32) + step).view(np.float32)


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


@pytest.mark.parametrize("bits", [8, 11])
def test_one_correction_decides_as_division_does_next_to_every_halfway_point(bits: int) -> None:
    # significands of all halfway points: of e4m3 and e5m2 at most 5 bits, of int8 at most 8
    middles = np.arange(1, 256, 2)
    significands = np.arange(1 << (bits - 1), 1 << bits)
    x, middle = (v.ravel().astype(np.float32) for v in np.meshgrid(significands, middles))
    wrong = rough = 0
    for s in _near_middles(x, middle):
        want = np.sign(x / s - middle)
        wrong += int((np.sign(_corrected(x, s, 1) - middle) != want).sum())
        rough += int((np.sign(_corrected(x, s, 0) - middle) != want).sum())
    assert rough > 0, "x * (1 / s) is right everywhere: these are not the hard cases"
    assert wrong == 0


def test_two_corrections_give_the_quotient_itself() -> None:
    rng = np.random.default_rng(4)
    x, s = (rng.integers(0x3F000000, 0x40800000, 1 << 20).astype(np.int32) for _ in range(2))
    # quotients close to the middle of two fp32 numbers are the hard ones
    hard = rng.integers(0x3F800000, 0x40000000, 1 << 20).astype(np.int32).view(np.float32)
    middle = hard.astype(np.float64) + np.spacing(hard).astype(np.float64) / 2
    divisor = s.view(np.float32)
    near = (middle * divisor).astype(np.float32)
    for value in (x.view(np.float32), near):
        assert np.array_equal(_corrected(value, divisor, 2), value / divisor)
    assert not np.array_equal(_corrected(near, divisor, 0), near / divisor)


def test_corrected_quotients_hold_to_the_ends_of_the_range_that_they_are_chosen_for() -> None:
    rng = np.random.default_rng(5)
    for scale in (2.0**-80, 2.0**120):
        s = (rng.uniform(1, 2, 1 << 16) * scale).astype(np.float32)
        quotient = np.exp2(rng.uniform(-18, 8.8, 1 << 16))
        with np.errstate(over="ignore"):
            x = (quotient * s).astype(np.float32)
        x = x[np.isfinite(x)]
        s = s[: x.size]
        assert np.array_equal(_corrected(x, s, 2), x / s)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_division_keeps_the_sign_of_zero(name: str) -> None:
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    out = torch.empty(4)
    _quotients[(1,)](x, torch.full((4,), 0.5), out, HOW=getattr(arithmetic, name), SIZE=4)
    assert out.signbit().tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["DIVIDE", "GUARDED_ONCE", "GUARDED_TWICE"])
def test_what_the_scale_does_not_bound_saturates_or_stays_nan(name: str) -> None:
    values = [torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 1e30, -1.0, 500.0]
    x = torch.tensor(values)
    s = torch.tensor([1e-20] * 6 + [1.0] * 2)
    out = torch.empty(8)
    with np.errstate(all="ignore"):
        _quotients[(1,)](x, s, out, HOW=getattr(arithmetic, name), SIZE=8)
    codes = numerics.saturating_cast(out, torch.float8_e4m3fn).view(torch.uint8)
    assert codes.tolist() == [0x7E, 0xFE, 0x7F, 0x7E, 0xFE, 0x7E, 0xB8, 0x7E]


def test_bounded_int8_codes_are_those_of_the_definition() -> None:
    halves = torch.arange(-254, 255) / 2
    beside = [torch.nextafter(halves, halves + 1), torch.nextafter(halves, halves - 1)]
    values = _padded(torch.cat([halves, *beside]).clamp(-127.0001, 127.0001))
    out = torch.empty(values.numel(), dtype=torch.uint8)
    _codes[(1,)](values, out, FORMAT=arithmetic.INT8_BOUNDED, SIZE=values.numel())
    assert torch.equal(out.view(torch.int8), torch.round(values).to(torch.int8))


def test_the_host_picks_the_forms_that_the_device_functions_know() -> None:
    for name, number in arithmetic.FORMATS.items():
        assert getattr(numerics_kernel, name.removeprefix("fp8_").upper()).value == number
    assert numerics_kernel.INT8_BOUNDED.value == arithmetic.INT8_BOUNDED
    for name in FORMS:
        assert getattr(numerics_kernel, name).value == getattr(arithmetic, name)


def test_the_interpreter_divides_and_makes_fp8_by_integers() -> None:
    made = arithmetic.arithmetic(operand("fp8_group128"), Arch.parse("90"), bits=8)
    assert (made.how, made.hw) == (arithmetic.DIVIDE, False)
