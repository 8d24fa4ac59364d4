"""An independent oracle: exact fractions and bit patterns, sharing no code with the library."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def round_to(value, mantissa, least_exponent):
    """Round a Fraction to nearest even in a binary format without an upper end."""
    value = Fraction(value)
    if value == 0:
        return Fraction(0)
    exponent = math.frexp(float(abs(value)))[1] - 1
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    quantum = Fraction(2) ** (max(exponent, least_exponent) - mantissa)
    return round(value / quantum) * quantum  # Python rounds halves to even


def f32(value):
    """RN to fp32, in its finite range."""
    return round_to(value, 23, -126)


def e4m3(value):
    return max(min(round_to(value, 3, -6), Fraction(448)), Fraction(-448))


def e5m2(value):
    return max(min(round_to(value, 2, -14), Fraction(57344)), Fraction(-57344))


def e2m1(value):
    return max(min(round_to(value, 1, 0), Fraction(6)), Fraction(-6))


def int8(value):
    return max(min(Fraction(round(value)), Fraction(127)), Fraction(-127))


def decode_e4m3(byte):
    sign = -1 if byte & 0x80 else 1
    exponent, mantissa = (byte >> 3) & 0xF, byte & 7
    if exponent == 15 and mantissa == 7:
        return None
    if exponent == 0:
        return sign * Fraction(mantissa, 8) * Fraction(2) ** -6
    return sign * (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - 7)


def decode_e5m2(byte):
    sign = -1 if byte & 0x80 else 1
    exponent, mantissa = (byte >> 2) & 0x1F, byte & 3
    if exponent == 31:
        return None
    if exponent == 0:
        return sign * Fraction(mantissa, 4) * Fraction(2) ** -14
    return sign * (1 + Fraction(mantissa, 4)) * Fraction(2) ** (exponent - 15)


def least_pow2(value):
    """Give the least power of two that is at least value, within UE8M0's range."""
    exponent = -127
    while exponent < 127 and Fraction(2) ** exponent < value:
        exponent += 1
    return Fraction(2) ** exponent


def scale(amax, fmax, *, eps=1e-10, ub=None, pow2=False):
    """The scale of an fp8 or int8 block from its exact amax."""
    bounded = Fraction(amax)
    if ub is not None:
        bounded = min(bounded, f32(Fraction(ub)))
    bounded = max(bounded, f32(Fraction(eps)))
    found = f32(bounded / int(fmax))
    return least_pow2(found) if pow2 else found


def code(x, s, rounder):
    """The value of the code of one element."""
    return rounder(f32(Fraction(x) / s))


def nvfp4_global(amax):
    if amax == 0:
        return Fraction(1)
    return f32(max(Fraction(amax), Fraction(2) ** -60) / 2688)


def nvfp4_scale(amax, g):
    return e4m3(f32(f32(f32(1 / g) * Fraction(amax)) / 6))


def nvfp4_code(x, s, g):
    if s == 0:
        return Fraction(0)
    return e2m1(f32(Fraction(x) * f32(f32(1 / g) / s)))


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Tensors are tiny: on a busy machine, waiting for a second thread costs ten times more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(
        code=code,
        decode_e4m3=decode_e4m3,
        decode_e5m2=decode_e5m2,
        e2m1=e2m1,
        e2m1_values=E2M1,
        e4m3=e4m3,
        e5m2=e5m2,
        f32=f32,
        int8=int8,
        least_pow2=least_pow2,
        nvfp4_code=nvfp4_code,
        nvfp4_global=nvfp4_global,
        nvfp4_scale=nvfp4_scale,
        round_to=round_to,
        scale=scale,
    )
