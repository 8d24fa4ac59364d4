"""The quantization arithmetic on fp32 values, as Triton device functions: bit-equal to the op's.

Each function here is one of ``quantmux.ops.numerics`` written for registers: what rounds there
rounds here, at the same place, to nearest even. Callers compile with ``enable_fp_fusion=False``, so
that the only fused multiply-adds are those written as ``tl.fma``.

Three numbers choose code at compile time, and the host picks them (``arithmetic.py``):

* ``FORMAT``: ``E4M3``, ``E5M2``, ``INT8`` or ``INT8_BOUNDED``, what a code is;
* ``HW``: whether fp32 becomes fp8 by the instruction (sm_90 and later) or by integer arithmetic,
  which gives the same bits everywhere (sm_80 has no such instruction, and the interpreter's cast is
  not to nearest even in every release);
* ``HOW``: how a value is divided by its scale, see `quotient`.
"""

import triton
import triton.language as tl

# how a code is stored
E4M3 = tl.constexpr(0)
E5M2 = tl.constexpr(1)
INT8 = tl.constexpr(2)
INT8_BOUNDED = tl.constexpr(3)

# how x / s is made
DIVIDE = tl.constexpr(0)
RECIPROCAL = tl.constexpr(1)
CORRECTED_ONCE = tl.constexpr(2)
CORRECTED_TWICE = tl.constexpr(3)
GUARDED_ONCE = tl.constexpr(4)
GUARDED_TWICE = tl.constexpr(5)

_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(0x7F800000)
_MANTISSA = tl.constexpr(0x007FFFFF)
_TWO_TO_MINUS_127 = tl.constexpr(0x00400000)
_MAX_EXPONENT_BYTE = tl.constexpr(254)
_NAN_CODE = tl.constexpr(0x7F)
# from here on every quotient saturates, in any format
_SATURATED = tl.constexpr(2.0**20)
# 1.5 * 2^23: an fp32 of this size has units of 1, so adding it rounds to a whole number
_WHOLE = tl.constexpr(12582912.0)


@triton.jit
def widen(x):
    """Give bf16, fp16 or fp32 values as fp32.

    bf16 is the upper half of an fp32. Said so, subnormal numbers are right in the interpreter too,
    whose own conversion loses the smallest.
    """
    if x.dtype == tl.bfloat16:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) << 16
        wide = bits.to(tl.float32, bitcast=True)
    else:
        wide = x.to(tl.float32)
    return wide


@triton.jit
def magnitude_bits(x):
    """Give the bits of |x| as int32: NaN above Inf above every finite number."""
    return widen(x).to(tl.int32, bitcast=True) & _MAGNITUDE


@triton.jit
def scale_of(
    amax_bits, eps, scale_ub, FMAX: tl.constexpr, HAS_UB: tl.constexpr, POW2: tl.constexpr
):
    """Give the fp32 scale of blocks from the bits of their amax; NaN where it is NaN or Inf.

    ``RN(max(min(amax, scale_ub), eps) / FMAX)``, rounded up to a power of two when POW2. The
    operand's model promises an eps whose scale is a normal number, so nothing here is subnormal.
    """
    amax = amax_bits.to(tl.float32, bitcast=True)
    if HAS_UB:
        amax = tl.minimum(amax, scale_ub)
    amax = tl.maximum(amax, eps)
    scale = tl.div_rn(amax, tl.full(amax.shape, FMAX, tl.float32))
    if POW2:
        # a carry out of the mantissa is the "plus one if the mantissa is not 0"
        bits = (scale.to(tl.int32, bitcast=True) + _MANTISSA) & _INFINITY
        scale = bits.to(tl.float32, bitcast=True)
    return tl.where(amax_bits >= _INFINITY, float("nan"), scale)


@triton.jit
def pow2_ceil(s):
    """Give the least power of two that is not below s >= 0, from 2^-127 to 2^127; NaN stays."""
    bits = s.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) + tl.where((bits & _MANTISSA) != 0, 1, 0)
    exponent = tl.where(bits <= _TWO_TO_MINUS_127, 0, tl.minimum(exponent, _MAX_EXPONENT_BYTE))
    rounded = tl.where(exponent == 0, _TWO_TO_MINUS_127, exponent << 23)
    return tl.where(bits > _INFINITY, s, rounded.to(tl.float32, bitcast=True))


@triton.jit
def exponent_byte(s):
    """Give the UE8M0 byte of powers of two as int32: NaN is 0xFF, 0 and 2^-127 are 0."""
    return (s.to(tl.int32, bitcast=True) >> 23) & 0xFF


@triton.jit
def inverse_of(s, HOW: tl.constexpr):
    """Give what `quotient` needs beside s, once per block: RN(1 / s); s itself when it divides."""
    if HOW == DIVIDE:
        y = s
    elif HOW == RECIPROCAL:
        # s = 2^(e - 127) with 1 <= e <= 253, so the inverse is a normal number too
        y = (0x7F000000 - s.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)
    else:
        y = tl.div_rn(tl.full(s.shape, 1.0, tl.float32), s)
    return y


@triton.jit
def quotient(x, s, y, HOW: tl.constexpr):
    """Give x / s, fp32, so that its code is that of RN(x / s); y is `inverse_of` (s).

    DIVIDE           a true division. Any x and s.
    RECIPROCAL       x · (1 / s), s a power of two from 2^-126 to 2^126: scaling by a power of two
                     rounds as the division does.
    CORRECTED_TWICE  x · y, corrected by two residuals. The first correction leaves at most one
                     unit of error (faithful); by Markstein's theorem the second gives RN(x / s),
                     as y = RN(1 / s), the residual of a faithful quotient is exact, and nothing
                     under- or overflows. Any finite fp32 x.
    CORRECTED_ONCE   The first correction only: RN(x / s) except where x / s lies within 2^-46
                     relative of the middle of two neighbouring fp32 numbers. Codes differ only if
                     one of those two is itself a halfway point of codes, and no x of 11 bits (bf16,
                     fp16) has such a quotient by any s of 24 bits but 2^k / (2 - 2^-23), which
                     comes out right. tests/backends/triton/test_numerics.py looks at them all.

    GUARDED_ONCE     The same where x / s is below 2^20, and x · y beyond, where every code
    GUARDED_TWICE    saturates: for an x that the scale does not bound. Inf and NaN stay what they
                     are; a correction would make a NaN of Inf.

    The corrected and the guarded forms need s between 2^-80 and 2^120, where residuals of quotients
    that decide about a code (2^-17 and above) are no subnormal numbers, and the corrected ones
    |x / s| below 2^30.
    """
    if HOW == DIVIDE:
        q = tl.div_rn(x, s)
    elif HOW == RECIPROCAL:
        q = x * y
    else:
        # q - (q·s - x)·y, and not q + (x - q·s)·y, which makes +0 of -0. Times -1 is a sign that
        # the instruction takes in, where a minus would be a subtraction from 0
        minus_x = x * -1.0
        minus_y = y * -1.0
        rough = x * y
        q = tl.fma(tl.fma(rough, s, minus_x), minus_y, rough)
        if (HOW == CORRECTED_TWICE) | (HOW == GUARDED_TWICE):
            q = tl.fma(tl.fma(q, s, minus_x), minus_y, q)
        if (HOW == GUARDED_ONCE) | (HOW == GUARDED_TWICE):
            q = tl.where(tl.abs(rough) < _SATURATED, q, rough)
    return q


@triton.jit
def _to_fp8(x, LIMIT: tl.constexpr, LEAST: tl.constexpr, SHIFT: tl.constexpr, REBIAS: tl.constexpr,
            MAGIC: tl.constexpr):  # fmt: skip
    """Round fp32 to an fp8 by integers, as uint8.

    LIMIT and LEAST are the bits of the largest number and of the least normal one, SHIFT the
    mantissa bits dropped, REBIAS the difference of the exponent biases in the code's place, MAGIC
    a power of two whose unit is the least subnormal.
    """
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & _MAGNITUDE
    # a NaN is above LIMIT too; it gets its code last
    bounded = tl.minimum(magnitude, LIMIT)
    half = ((1 << (SHIFT - 1)) - 1) + ((bounded >> SHIFT) & 1)
    normal = ((bounded + half) >> SHIFT) - REBIAS
    shifted = bounded.to(tl.float32, bitcast=True) + MAGIC
    base = tl.full(x.shape, MAGIC, tl.float32).to(tl.int32, bitcast=True)
    subnormal = shifted.to(tl.int32, bitcast=True) - base
    code = tl.where(bounded < LEAST, subnormal, normal) | ((bits >> 24) & 0x80)
    return tl.where(magnitude > _INFINITY, _NAN_CODE, code).to(tl.uint8)


@triton.jit
def to_e4m3(x, HW: tl.constexpr):
    """Give the e4m3 codes of fp32 values as uint8: nearest even, saturated, NaN 0x7F."""
    if HW:
        code = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        code = _to_fp8(x, 0x43E00000, 0x3C800000, 20, 120 << 3, 16384.0)
    return code


@triton.jit
def to_e5m2(x, HW: tl.constexpr):
    """Give the e5m2 codes of fp32 values as uint8: nearest even, saturated, NaN 0x7F."""
    if HW:
        code = x.to(tl.float8e5).to(tl.uint8, bitcast=True)
    else:
        code = _to_fp8(x, 0x47600000, 0x38800000, 21, 112 << 2, 128.0)
    return code


@triton.jit
def to_int8(x):
    """Give whole numbers of fp32 values as int8: nearest even, from -127 to 127, NaN 0."""
    bounded = tl.minimum(tl.maximum(x, -127.0), 127.0)
    code = (bounded + _WHOLE).to(tl.int32, bitcast=True) & 0xFF
    return tl.where(x != x, 0, code).to(tl.uint8).to(tl.int8, bitcast=True)  # noqa: PLR0124


@triton.jit
def to_bounded_int8(x):
    """Give whole numbers of fp32 values below 127.5 as int8: nearest even; NaN any code."""
    code = (x + _WHOLE).to(tl.int32, bitcast=True) & 0xFF
    return code.to(tl.uint8).to(tl.int8, bitcast=True)


@triton.jit
def to_code(x, FORMAT: tl.constexpr, HW: tl.constexpr):
    """Give the codes of quotients in FORMAT, as uint8 (int8 codes by their bits)."""
    if FORMAT == E4M3:
        code = to_e4m3(x, HW)
    elif FORMAT == E5M2:
        code = to_e5m2(x, HW)
    elif FORMAT == INT8_BOUNDED:
        code = to_bounded_int8(x).to(tl.uint8, bitcast=True)
    else:
        code = to_int8(x).to(tl.uint8, bitcast=True)
    return code
