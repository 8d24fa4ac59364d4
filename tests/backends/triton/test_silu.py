"""The SiLU·mul device function: its fast form proved in numpy, its plain one in the interpreter."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from quantmux.ops.silu_mul_quantize import reference
from quantmux_triton.launcher import Launcher
from quantmux_triton.silu_mul_quantize import silu_kernel
from quantmux_triton.silu_mul_quantize.silu_kernel import silu_mul

pytestmark = pytest.mark.interpreter

UNIT = 2.0**-24
LOG2_E = np.uint32(0x3FB8AA3A).view(np.float32)
LN2_HIGH = np.float32(silu_kernel._LN2_HIGH.value)
LN2_LOW = np.float32(silu_kernel._LN2_LOW.value)
FAR = np.float32(silu_kernel._FAR.value)


@triton.jit
def _products(gate, up, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, silu_mul(tl.load(gate + at), tl.load(up + at), HW=False))


def _fma(a, b, c):
    """a · b + c with one rounding: the product is exact in fp64, and the sum far within it."""
    return (a.astype(np.float64) * np.float64(b) + c.astype(np.float64)).astype(np.float32)


def _towards_zero(a, b):
    """a · b rounded towards 0, as mul.rz does it: the product is exact in fp64."""
    exact = a.astype(np.float64) * np.float64(b)
    nearest = exact.astype(np.float32)
    shorter = np.nextafter(nearest, np.float32(0))
    return np.where(np.abs(nearest.astype(np.float64)) > np.abs(exact), shorter, nearest)


def _flushed(x):
    return np.where(np.abs(x) < 2.0**-126, np.float32(0), x)


@np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
def _fast(gate, power_error=0.0, share_error=0.0, keep_inf=False):
    """What the instructions of the fast form give for up = 1, with errors of the approximations."""
    x = np.minimum(np.maximum(-gate, -FAR), FAR) if keep_inf else -gate
    p = _towards_zero(x, LOG2_E)
    power = np.exp2(p.astype(np.float64)) * (1 + power_error)
    power = _flushed(power.astype(np.float32))
    d = _fma(p, -LN2_LOW, _fma(p, -LN2_HIGH, x))
    power = _fma_of_three(power, d)
    share = 1 / (np.float32(1) + power).astype(np.float64) * (1 + share_error)
    return gate * _flushed(share.astype(np.float32))


def _fma_of_three(power, d):
    wide = power.astype(np.float64)
    return (wide * d.astype(np.float64) + wide).astype(np.float32)


def _gates():
    generator = np.random.default_rng(0)
    steps = [np.linspace(-87.3, 30, 400_001), generator.uniform(-87.3, -10, 400_000)]
    return np.concatenate([*steps, generator.normal(0, 3, 200_000)]).astype(np.float32)


def _exact(gate):
    wide = gate.astype(np.float64)
    return wide / (1 + np.exp(-wide))


@pytest.mark.parametrize("power_error", [-(2.0**-22), 0.0, 2.0**-22])
@pytest.mark.parametrize("share_error", [-(2.0**-23), 0.0, 2.0**-23])
def test_the_fast_form_stays_within_ten_units_for_every_gate(power_error, share_error):
    gate = _gates()
    gate = gate[gate != 0]
    exact = _exact(gate)
    relative = np.abs(_fast(gate, power_error, share_error) - exact) / np.abs(exact)
    assert relative.max() <= 10 * UNIT


def test_the_definition_stays_within_five_units():
    gate = _gates()
    gate = gate[gate != 0]
    x = torch.stack((torch.from_numpy(gate), torch.ones(gate.size)), dim=1)
    found = reference.silu_mul(x).squeeze(1).double().numpy()
    exact = _exact(gate)
    assert (np.abs(found - exact) / np.abs(exact)).max() <= 5 * UNIT


def test_without_the_correction_the_argument_of_exp2_would_cost_too_much():
    gate = np.linspace(-87.0, -40.0, 100_001).astype(np.float32)
    p = -gate * np.float32(np.log2(np.e))
    plain = gate / (1 + np.exp2(p.astype(np.float64)))
    exact = _exact(gate)
    assert (np.abs(plain - exact) / np.abs(exact)).max() > 16 * UNIT


def test_the_fast_form_is_right_where_exp_is_zero_or_infinite():
    gate = np.float32([-3.3e38, -1e30, -200, -100, -89, 89, 200, 1e30, 3.3e38, 0.0, -0.0])
    want = np.float32([0, 0, 0, 0, 0, 89, 200, 1e30, 3.3e38, 0.0, 0.0])
    assert np.array_equal(_fast(gate), want)
    assert np.array_equal(_fast(gate, keep_inf=True), want)


def test_an_infinite_gate_can_be_kept():
    assert _fast(np.float32([np.inf]), keep_inf=True) == np.inf


def test_no_gate_that_overflows_exp_gives_anything_but_zero():
    gate = np.linspace(-230, -89, 200_001).astype(np.float32)
    assert not _fast(gate).any()


def test_the_fast_form_never_hides_what_is_not_finite():
    with np.errstate(invalid="ignore"):
        found = _fast(np.float32([np.nan, np.inf, -np.inf]))
    assert not np.isfinite(found).any()


@pytest.mark.parametrize("fmax", [448.0, 57344.0, 127.0])
def test_a_product_corrected_once_is_the_quotient_by_each_constant(fmax):
    divisor, inverse = np.float32(fmax), np.float32(1.0 / fmax)
    mantissas = np.arange(1 << 23, dtype=np.uint32)
    for exponent in (127, 128):
        amax = (mantissas | np.uint32(exponent << 23)).view(np.float32)
        q = amax * inverse
        residual = _fma(-q, divisor, amax)
        assert np.array_equal(_fma(residual, inverse, q), amax / divisor)


def test_the_plain_form_is_the_definition():
    generator = torch.Generator().manual_seed(0)
    gate = torch.randn(4096, generator=generator) * 20
    up = torch.randn(4096, generator=generator)
    gate[:8] = torch.tensor([0.0, -0.0, 1e30, -1e30, 3e38, -3e38, 88.9, -88.9])
    out = torch.empty(4096)
    Launcher(_products, {"SIZE": 4096}, {})((1,), gate, up, out)
    want = reference.silu_mul(torch.stack((gate, up), dim=1)).squeeze(1)
    torch.testing.assert_close(out, want, rtol=8 * UNIT, atol=0)


def test_the_plain_form_keeps_nan_and_infinity():
    gate = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0] * 4)
    up = torch.tensor([1.0, 1.0, 1.0, torch.nan] * 4)
    out = torch.empty(16)
    Launcher(_products, {"SIZE": 16}, {})((1,), gate, up, out)
    assert not torch.isfinite(out).any()
