"""NVFP4 weights to bf16 or fp16, exactly, in about two instructions a weight.

**The tile.** A slab is 256 products of K. Its codes of one row are 64 words of 16 bits; word c
holds the codes of the columns c, 64 + c, 128 + c and 192 + c of the slab (``j`` = 0 … 3). So a
[BN, 64] tile of words becomes four [BN, 64] tiles of weights *elementwise*: each thread keeps what
it loaded, and what it loaded is what the matrix unit wants of it. Nothing is shuffled, and the four
tiles meet four plain column blocks of x. Scales come as 4 words of 32 bits a row and slab: word s
holds the scales of the groups 4j + s, byte j.

**A code.** E2M1 is sign, two bits of exponent, one of mantissa. At bit 15 and bits 8 … 6 they are
a bf16 number 2^126 times too small (subnormal for 0.5), at bit 15 and 11 … 9 an fp16 number 2^14
times too small. The bits of a word lie so that a shift or two and a mask put them there, two
weights of neighbouring columns at a time:

=========  ====  ====  ====  ====
j          0     1     2     3
=========  ====  ====  ====  ====
magnitude  8:6   5:3   2:0   11:9
sign       15    12    14    13
=========  ====  ====  ====  ====

**A scale** is stored as a number of five bits of exponent and three of mantissa, 22 above the
exponent that it stands for, and 0 for 0 (`nvfp4_slabs` translates E4M3, which has 127 such values,
subnormal ones among them, and back). Shifted left by 7 that is ``s · 2^7`` in fp16. In bf16 the
bits 0x7000 above it make it ``s · 2^119``, and 2^97 of what should be 0; 2^97 is subtracted, which
changes no other scale: it is less than half a unit of the least. The one product with the code's
bits then gives ``code · s · 2^-7`` in either format. That has at most six significant bits, and is
at least 2^-17 or 0: exact in both. The missing 2^7 is the epilogue's.
"""

import triton
import triton.language as tl

SLAB = tl.constexpr(256)
"""Products of K that lie together in the prepared weights."""

WORDS = tl.constexpr(64)
"""Words of 16 bits in a row of a slab."""

UNSCALE = tl.constexpr(128.0)
"""What decoded weights are too small by."""

# the last four lines cost nothing: an operand may be one half of a register, twice
_SCALES_BF16 = tl.constexpr("""
{
.reg .b32 a, b, one, none;
.reg .b16 a0, a1, b0, b1;
mov.b32 one, 0x3f803f80;
mov.b32 none, 0xf000f000;
shl.b32 a, $4, 4;
shr.b32 b, $4, 4;
lop3.b32 a, a, 0x0ff00ff0, 0x70007000, 0xea;
lop3.b32 b, b, 0x0ff00ff0, 0x70007000, 0xea;
fma.rn.bf16x2 a, a, one, none;
fma.rn.bf16x2 b, b, one, none;
mov.b32 {a0, a1}, a;
mov.b32 {b0, b1}, b;
mov.b32 $0, {a0, a0};
mov.b32 $1, {b0, b0};
mov.b32 $2, {a1, a1};
mov.b32 $3, {b1, b1};
}
""")

_SCALES_FP16 = tl.constexpr("""
{
.reg .b32 a, b;
.reg .b16 a0, a1, b0, b1;
shl.b32 a, $4, 7;
shr.b32 b, $4, 1;
and.b32 a, a, 0x7f807f80;
and.b32 b, b, 0x7f807f80;
mov.b32 {a0, a1}, a;
mov.b32 {b0, b1}, b;
mov.b32 $0, {a0, a0};
mov.b32 $1, {b0, b0};
mov.b32 $2, {a1, a1};
mov.b32 $3, {b1, b1};
}
""")

# operands: 4 results, then the words of two columns in one register, then each of the 4 scale
# tiles in two registers that hold the same, of which the first is read
_CODES_BF16 = tl.constexpr("""
{
.reg .b32 t0, t1, t2, t3, s2, s3, z;
mov.b32 z, 0x80008000;
and.b32 t0, $4, 0x81c081c0;
shl.b32 t1, $4, 3;
and.b32 t1, t1, 0x81c081c0;
shl.b32 t2, $4, 6;
shl.b32 s2, $4, 1;
and.b32 s2, s2, 0x80008000;
lop3.b32 t2, t2, 0x01c001c0, s2, 0xea;
shr.b32 t3, $4, 3;
shl.b32 s3, $4, 2;
and.b32 s3, s3, 0x80008000;
lop3.b32 t3, t3, 0x01c001c0, s3, 0xea;
fma.rn.bf16x2 $0, t0, $5, z;
fma.rn.bf16x2 $1, t1, $7, z;
fma.rn.bf16x2 $2, t2, $9, z;
fma.rn.bf16x2 $3, t3, $11, z;
}
""")

_CODES_FP16 = tl.constexpr("""
{
.reg .b32 t0, t1, t2, t3, s0, s1, s2, s3, z;
mov.b32 z, 0x80008000;
shl.b32 t0, $4, 3;
and.b32 s0, $4, 0x80008000;
and.b32 s1, t0, 0x80008000;
lop3.b32 t0, t0, 0x0e000e00, s0, 0xea;
shl.b32 t1, $4, 6;
lop3.b32 t1, t1, 0x0e000e00, s1, 0xea;
shl.b32 t2, $4, 9;
shl.b32 s2, $4, 1;
and.b32 s2, s2, 0x80008000;
lop3.b32 t2, t2, 0x0e000e00, s2, 0xea;
shl.b32 s3, $4, 2;
and.b32 s3, s3, 0x80008000;
lop3.b32 t3, $4, 0x0e000e00, s3, 0xea;
fma.rn.f16x2 $0, t0, $5, z;
fma.rn.f16x2 $1, t1, $7, z;
fma.rn.f16x2 $2, t2, $9, z;
fma.rn.f16x2 $3, t3, $11, z;
}
""")

_FOUR_INTS = tl.constexpr((tl.int32, tl.int32, tl.int32, tl.int32))
_FOUR_BF16 = tl.constexpr((tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16))
_FOUR_FP16 = tl.constexpr((tl.float16, tl.float16, tl.float16, tl.float16))


@triton.jit
def _over_groups(scales, BN: tl.constexpr):
    """Give one value a word, [BN, 64], of one a group of 16 words, [BN, 4]."""
    spread = tl.broadcast_to(scales[:, :, None], (BN, 4, 16))
    return tl.reshape(spread, (BN, 64))


@triton.jit
def _plain_quarter(words, scales, j: tl.constexpr, BN: tl.constexpr):
    """Give the weights of columns 64j … 64j + 63 of a slab in fp32, by plain operations."""
    magnitude: tl.constexpr = 6 - 3 * j if j < 3 else 9
    sign: tl.constexpr = 15 if j == 0 else (12 if j == 1 else 16 - j)
    bits = words.to(tl.int32)
    size = (((bits >> magnitude) & 7) << 22).to(tl.float32, bitcast=True) * 2.0**126
    scale = (((scales >> (8 * j)) & 0xFF) << 20).to(tl.float32, bitcast=True) * 2.0**105
    value = tl.where(((bits >> sign) & 1) != 0, -size, size)
    return value * _over_groups(scale, BN) * (1.0 / 128.0)


@triton.jit
def decode_slab(words, scales, BN: tl.constexpr, FP16: tl.constexpr, PLAIN: tl.constexpr):
    """Give the weights of a slab, ``code · s / 128``, as four tiles [BN, 64] of 64 columns each.

    Args:
        words: int16 [BN, 64], see above.
        scales: int32 [BN, 4], see above.
        BN: Rows.
        FP16: In fp16 instead of bf16.
        PLAIN: By plain operations and in fp32, for where there is no inline assembly.
    """
    if PLAIN:
        w0 = _plain_quarter(words, scales, 0, BN)
        w1 = _plain_quarter(words, scales, 1, BN)
        w2 = _plain_quarter(words, scales, 2, BN)
        w3 = _plain_quarter(words, scales, 3, BN)
    else:
        s0, s1, s2, s3 = tl.inline_asm_elementwise(
            _SCALES_FP16 if FP16 else _SCALES_BF16,
            "=r,=r,=r,=r,r",
            [scales],
            dtype=_FOUR_INTS,
            is_pure=True,
            pack=1,
        )
        s0 = _over_groups(s0, BN)
        s1 = _over_groups(s1, BN)
        s2 = _over_groups(s2, BN)
        s3 = _over_groups(s3, BN)
        w0, w1, w2, w3 = tl.inline_asm_elementwise(
            _CODES_FP16 if FP16 else _CODES_BF16,
            "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r",
            [words, s0, s1, s2, s3],
            dtype=_FOUR_FP16 if FP16 else _FOUR_BF16,
            is_pure=True,
            pack=2,
        )
    return w0, w1, w2, w3


@triton.jit
def whole_slab(w0, w1, w2, w3, BN: tl.constexpr):
    """Give one tile [BN, 256] of the four, in the order of K. No value changes its thread."""
    even = tl.join(tl.reshape(w0, (BN, 4, 16)), tl.reshape(w2, (BN, 4, 16)))
    odd = tl.join(tl.reshape(w1, (BN, 4, 16)), tl.reshape(w3, (BN, 4, 16)))
    both = tl.permute(tl.join(even, odd), (0, 3, 4, 1, 2))
    return tl.reshape(both, (BN, 256))


@triton.jit
def prefetch_slabs(w_ptr, s_ptr, first, last, start, N, BN: tl.constexpr):
    """Ask for the slabs [first, last) of BN rows to be brought into L2; waits for nothing.

    Args:
        w_ptr: int16 [slabs, N, 64].
        s_ptr: int32 [slabs, N, 4].
        first: First slab.
        last: Slab behind the last one.
        start: First row.
        N: Rows that there are.
        BN: Rows.
    """
    line = tl.minimum(start + tl.arange(0, BN), N - 1)
    # 8 rows of scales to a line of 128 bytes; the last row's line may be asked for many times
    scale_row = tl.minimum(start + tl.arange(0, BN) // 8 * 8, N - 1)
    wide_n = N.to(tl.int64)
    for slab in range(first, last):
        row = slab * wide_n
        words = (w_ptr + (row + line) * 64).to(tl.uint64, bitcast=True)
        scales = (s_ptr + (row + scale_row) * 4).to(tl.uint64, bitcast=True)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; prefetch.global.L2 [$2]; // $0",
            "=r,l,l",
            [words, scales],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
