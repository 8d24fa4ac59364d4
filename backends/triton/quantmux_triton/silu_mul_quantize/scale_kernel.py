"""Scales of blocks without a division instruction, bit-equal to `numerics_kernel.scale_of`.

The divisor is one of three constants: 448, 57344 or 127. With y = RN(1 / c), the product a · y
corrected by its residual is RN(a / c) for every a: all 2^24 mantissas of two binades were tried for
each constant (tests/backends/triton/test_silu.py), and other exponents only shift them. A division
that is right for any divisor has a slow path, and its test, its branch and its steps are a sixth of
the instructions of a kernel that has eight elements a thread.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import scale_of

_MANTISSA = tl.constexpr(0x007FFFFF)
_INFINITY = tl.constexpr(0x7F800000)


@triton.jit
def divided_by(a, C: tl.constexpr):
    """Give RN(a / C) of fp32 values from 2^-100 on, for C = 448, 57344 or 127."""
    y = tl.full((1,), 1.0 / C, tl.float32)
    q = a * y
    return tl.fma(tl.fma(-q, tl.full(a.shape, C, tl.float32), a), y + tl.zeros_like(a), q)


@triton.jit
def scale_of_constant(
    amax_bits, eps, scale_ub, FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr,
    MULTIPLIED: tl.constexpr,
):  # fmt: skip
    """Give what `scale_of` gives; MULTIPLIED says that eps is at least 2^-100 and fma rounds once.

    Args:
        amax_bits: int32 [...], bits of amax.
        eps: Floor of amax.
        scale_ub: Ceiling of amax, read when HAS_UB.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        POW2: Whether scales are powers of two.
        MULTIPLIED: Whether `divided_by` may take the place of the division.
    """
    if MULTIPLIED:
        amax = amax_bits.to(tl.float32, bitcast=True)
        if HAS_UB:
            amax = tl.minimum(amax, scale_ub)
        scale = divided_by(tl.maximum(amax, eps), FMAX)
        if POW2:
            # a carry out of the mantissa is the "plus one if the mantissa is not 0"
            bits = (scale.to(tl.int32, bitcast=True) + _MANTISSA) & _INFINITY
            scale = bits.to(tl.float32, bitcast=True)
        scale = tl.where(amax_bits >= _INFINITY, float("nan"), scale)
    else:
        scale = scale_of(amax_bits, eps, scale_ub, FMAX, HAS_UB, POW2)
    return scale
