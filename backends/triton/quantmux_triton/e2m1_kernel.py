"""fp32 to e2m1 (FP4) codes as Triton device functions, bit-equal to ``numerics.encode_e2m1``.

The magnitudes are 0, 0.5, 1, 1.5, 2, 3, 4, 6: steps of 0.5 below 2, of 1 up to 4, of 2 above.
From sm_100 on one instruction converts a pair. Elsewhere one addition does the rounding. Let a be
|v|, at most 6, and E the power of two at or below a, at least 1. A number between E·2^22 and
E·2^23 has units of E/2, which is the step at a; so RN(E·2^22 + a) has a/(E/2), rounded to nearest
even, in the low bits of its mantissa, and E in its exponent::

    t = fma(E, 2^22 + 3, a)      the product is exact; the 3 adds 6 units, a constant made free
    code = (bits(t) + (bits(t) >> 22)) & 7

The code of E·(k/2), k = 2 or 3, is k + 2·log2(E), and k = 0, 1 for the subnormal 0 and 0.5: each
octave is worth 2, which is what the exponent counts in bits(t) >> 22. Its bias, 2 · 149 = 298, is 2
modulo 8; with the 6 units it vanishes. A number that rounds up to the next octave carries right,
since k = 4 is k = 2 of the next.

GPUs do additions of fp32 at twice the rate of integer ones, so for them the constant is made by
saturating ones: h = sat((a - 2)·2^30) is 1 above 2 and else 0, and likewise above 4. The constants
2^22, 2^23 + 2 and 2^24 + 8 for the three octaves bring the octave's worth along, and the code is in
the lowest bits of the sum at once. Eight elements become a word by bytes: the low bytes of the
eight sums and the high bytes of the eight values, which have the signs, are gathered four at a
time, and three selections of bits put them together. (On an H200 the quantizer takes 46.1 µs for
8192 x 7168 by way of h, and 49.8 by way of E; 2026-11-21, CUDA graph, cold L2.)

``FORM`` chooses: ``PORTABLE`` is plain Triton by way of E, for the interpreter; ``BY_EXPONENT`` the
same with the gathering of bytes, one instruction an element less than ``BY_ADDITION``, for where
fp32 additions are what there is too much of; ``BY_INSTRUCTION`` needs sm_100.
"""

import triton
import triton.language as tl

PORTABLE = tl.constexpr(0)
BY_ADDITION = tl.constexpr(1)
BY_INSTRUCTION = tl.constexpr(2)
BY_EXPONENT = tl.constexpr(3)

_EXPONENT = tl.constexpr(0x7F800000)
_ONE = tl.constexpr(0x3F800000)
_UNITS = tl.constexpr(4194307.0)  # 2^22 + 3
_LARGEST = tl.constexpr(6.0)


@triton.jit
def to_e2m1(v):
    """Give the e2m1 codes of fp32 values as int32 0...15, by integer and fp32 arithmetic.

    Nearest even, saturated at 6, sign in bit 3. The code of a NaN is not specified.
    """
    return (_sum(v) & 7) | ((_bits(v) >> 28) & 8)


@triton.jit
def to_e2m1_packed(lo, hi, FORM: tl.constexpr):
    """Give bytes of two e2m1 codes as uint8: ``lo``, the even column, in the low nibble.

    Args:
        lo: fp32.
        hi: fp32 of the same shape.
        FORM: How.
    """
    if FORM == BY_INSTRUCTION:
        byte = tl.inline_asm_elementwise(
            """
            {
            .reg .b8 pair;
            cvt.rn.satfinite.e2m1x2.f32 pair, $2, $1;
            cvt.u32.u8 $0, pair;
            }
            """,
            "=r,r,r",
            [lo, hi],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        byte = to_e2m1(lo) | (to_e2m1(hi) << 4)
    return byte.to(tl.uint8)


@triton.jit
def to_e2m1_word(v0, v1, v2, v3, v4, v5, v6, v7, FORM: tl.constexpr):
    """Give words of eight e2m1 codes as int32, the first in the lowest nibble.

    Args:
        v0: fp32 of column 0; the others alike, of columns 1...7.
        v1: See v0.
        v2: See v0.
        v3: See v0.
        v4: See v0.
        v5: See v0.
        v6: See v0.
        v7: See v0.
        FORM: How.
    """
    if FORM == BY_INSTRUCTION:
        word = tl.inline_asm_elementwise(
            """
            {
            .reg .b8 a, b, c, d;
            cvt.rn.satfinite.e2m1x2.f32 a, $2, $1;
            cvt.rn.satfinite.e2m1x2.f32 b, $4, $3;
            cvt.rn.satfinite.e2m1x2.f32 c, $6, $5;
            cvt.rn.satfinite.e2m1x2.f32 d, $8, $7;
            mov.b32 $0, {a, b, c, d};
            }
            """,
            "=r,r,r,r,r,r,r,r,r",
            [v0, v1, v2, v3, v4, v5, v6, v7],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    elif FORM != PORTABLE:
        if FORM == BY_ADDITION:
            even = _gathered(_added(v0), _added(v2), _added(v4), _added(v6), 0x40)
            odd = _gathered(_added(v1), _added(v3), _added(v5), _added(v7), 0x40) << 4
        else:
            even = _gathered(_sum(v0), _sum(v2), _sum(v4), _sum(v6), 0x40)
            odd = _gathered(_sum(v1), _sum(v3), _sum(v5), _sum(v7), 0x40) << 4
        even_sign = _gathered(_bits(v0), _bits(v2), _bits(v4), _bits(v6), 0x73) >> 4
        odd_sign = _gathered(_bits(v1), _bits(v3), _bits(v5), _bits(v7), 0x73)
        even = (even & 0x07070707) | (even_sign & ~0x07070707)
        odd = (odd & 0x70707070) | (odd_sign & ~0x70707070)
        word = (even & 0x0F0F0F0F) | (odd & ~0x0F0F0F0F)
    else:
        word = to_e2m1(v0) | (to_e2m1(v1) << 4)
        word |= (to_e2m1(v2) << 8) | (to_e2m1(v3) << 12)
        word |= (to_e2m1(v4) << 16) | (to_e2m1(v5) << 20)
        word |= (to_e2m1(v6) << 24) | (to_e2m1(v7) << 28)
    return word


@triton.jit
def _bits(v):
    return v.to(tl.int32, bitcast=True)


@triton.jit
def _sum(v):
    """Give int32 whose three lowest bits are the magnitude of the code; the others are anything."""
    a = tl.minimum(tl.abs(v), _LARGEST)
    e = tl.maximum(_bits(a) & _EXPONENT, _ONE)
    u = _bits(tl.fma(e.to(tl.float32, bitcast=True), tl.full(v.shape, _UNITS, tl.float32), a))
    return u + (u >> 22)


@triton.jit
def _added(v):
    """Do as `_sum` by fp32 additions: 6; 2^30, -2^31, -2^32; 2^22 + 2, 2^22, 2^23 + 6."""
    return tl.inline_asm_elementwise(
        """
        {
        .reg .f32 a, h, c;
        abs.f32 a, $1;
        min.f32 a, a, 0f40C00000;
        fma.rn.sat.f32 h, a, 0f4E800000, 0fCF000000;
        fma.rn.f32 c, h, 0f4A800004, 0f4A800000;
        fma.rn.sat.f32 h, a, 0f4E800000, 0fCF800000;
        fma.rn.f32 c, h, 0f4B000006, c;
        add.rn.f32 $0, a, c;
        }
        """,
        "=r,r",
        [v],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _gathered(a, b, c, d, PAIR: tl.constexpr):
    """Give a byte of each of four int32; PAIR tells ``prmt`` which, as nibbles of b and a."""
    low = _permuted(a, b, PAIR)
    high = _permuted(c, d, PAIR)
    return _permuted(low, high, 0x5410)


@triton.jit
def _permuted(a, b, HOW: tl.constexpr):
    return tl.inline_asm_elementwise(
        f"prmt.b32 $0, $1, $2, {HOW};", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )
