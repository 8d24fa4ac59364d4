"""Blocks of NVFP4 in registers: a thread has the sixteen values of a block, scale and codes.

A block is two tuples of eight fp32 tensors, one element each in a thread: the maximum of a block,
its scale and the packing of its codes then need no exchange between lanes, and the two divisions
of a block are done once.
"""

import triton
import triton.language as tl

from quantmux_triton.e2m1_kernel import PORTABLE, to_e2m1_word
from quantmux_triton.numerics_kernel import to_e4m3
from quantmux_triton.silu_mul_quantize.silu_kernel import silu_mul

ROW_MAJOR = tl.constexpr(0)
SWIZZLED_128X4 = tl.constexpr(1)
SWIZZLED_8X4 = tl.constexpr(2)

_INFINITY = tl.constexpr(0x7F800000)
_NAN_CODE = tl.constexpr(0x7F)
# a quotient of this size and more saturates; Inf would spoil an exact division by multiplications
_SATURATED = tl.constexpr(1048576.0)
_REBIAS = tl.constexpr(2.0**120)
_SIXTH = tl.constexpr(0.16666667163372039795)
# where G is between these, neither RN(G / s) nor a residual of it leaves the normal numbers
_LEAST_PLAIN = tl.constexpr(2.0**-60)
_MOST_PLAIN = tl.constexpr(2.0**100)


@triton.jit
def blocks_of(
    program, lane, GROUPS: tl.constexpr, ROWS: tl.constexpr, QUADS: tl.constexpr,
    LAYOUT: tl.constexpr,
):  # fmt: skip
    """Give the least row of a program, and row and block column of every lane.

    Row by row, programs take consecutive blocks of the whole matrix. In the swizzled layouts they
    take tiles of ROWS x QUADS * 4 blocks, whose lanes run over the four blocks of a quad, then the
    rows: 32 lanes then write 32 bytes of scales side by side. In the layout 128x4 that are four
    columns in rows r, r + 32, r + 64, r + 96, so these rows are in one tile.
    """
    if LAYOUT == ROW_MAJOR:
        # GROUPS programs take TILE rows; so nothing here passes 2^31 before rows do
        TILE: tl.constexpr = ROWS * QUADS * 4
        base = program // GROUPS * TILE
        start = program % GROUPS * TILE
        first = base + start // GROUPS
        row = base + (start + lane) // GROUPS
        group = (start + lane) % GROUPS
    else:
        ACROSS: tl.constexpr = ((GROUPS + 3) // 4 + QUADS - 1) // QUADS
        down = program // ACROSS
        group = (program % ACROSS * QUADS + lane // (ROWS * 4)) * 4 + lane % 4
        i = lane // 4 % ROWS
        if LAYOUT == SWIZZLED_128X4:
            STEP: tl.constexpr = ROWS // 4
            first = down // (32 // STEP) * 128 + down % (32 // STEP) * STEP
            row = first + (i % 4 * 32 + i // 4)
        else:
            first = down * ROWS
            row = first + i
    return first, row, group


@triton.jit
def scale_place(row, group, padded_m, GROUPS: tl.constexpr, LAYOUT: tl.constexpr):
    """Give the byte of a block's scale, and whether there is one; padding that is stored counts."""
    KT: tl.constexpr = (GROUPS + 3) // 4
    if LAYOUT == SWIZZLED_128X4:
        tile = (row >> 7).to(tl.int64) * (KT * 512) + (group >> 2) * 512
        place = tile + ((row & 31) * 16 + ((row >> 5) & 3) * 4 + (group & 3))
        exists = (group < KT * 4) & (row < (padded_m + 127) // 128 * 128)
    elif LAYOUT == SWIZZLED_8X4:
        tile = (row >> 3).to(tl.int64) * (KT * 32) + (group >> 2) * 32
        place = tile + ((row & 7) * 4 + (group & 3))
        exists = (group < KT * 4) & (row < (padded_m + 7) // 8 * 8)
    else:
        place = row.to(tl.int64) * GROUPS + group
        exists = (group < GROUPS) & (row < padded_m)
    return place, exists


@triton.jit
def load_eight(x, at, inside, column, column_stride, N: tl.constexpr, ALIGNED: tl.constexpr):
    """Give eight columns of every block as fp32 tensors of the shape of ``at``, 0 outside.

    Args:
        x: The matrix.
        at: int64 [L], where the rows begin, in elements.
        inside: [L], whether row and block exist.
        column: int32 [L], first of the columns, a multiple of 8.
        column_stride: Elements between columns, 1 when ALIGNED.
        N: Columns of x.
        ALIGNED: Rows begin at multiples of 16 bytes and have no gaps between columns.
    """
    WIDTH: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    if ALIGNED and N % 16 == 0 and x.dtype.element_ty == tl.bfloat16:
        words = _load_words(x, at, inside, column)
        w0, w1, w2, w3 = _four(words)
        v0, v1 = _of_bf16(w0)
        v2, v3 = _of_bf16(w1)
        v4, v5 = _of_bf16(w2)
        v6, v7 = _of_bf16(w3)
    elif WIDTH >= 8:
        eight = _load(x, at, inside, column, column_stride, N, 8, ALIGNED)
        v0, v1, v2, v3, v4, v5, v6, v7 = _eight(eight)
    else:
        low = _load(x, at, inside, column, column_stride, N, 4, ALIGNED)
        high = _load(x, at, inside, column + 4, column_stride, N, 4, ALIGNED)
        v0, v1, v2, v3 = _four(low)
        v4, v5, v6, v7 = _four(high)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def values_of_eight(
    x, at, inside, column, column_stride, N: tl.constexpr, ALIGNED: tl.constexpr,
    SILU: tl.constexpr, HW_SILU: tl.constexpr,
):  # fmt: skip
    """Give eight columns of what is quantized: x, or ``silu(gate) * up``; see `load_eight`.

    Args:
        x: The matrix [M, N], or [M, 2N] = [gate | up].
        at: As in `load_eight`.
        inside: As in `load_eight`.
        column: As in `load_eight`.
        column_stride: As in `load_eight`.
        N: Columns of what is quantized.
        ALIGNED: As in `load_eight`; with SILU N is then a multiple of 16 bytes.
        SILU: Whether x is gate and up.
        HW_SILU: Whether 2^x and 1/x are instructions.
    """
    v = load_eight(x, at, inside, column, column_stride, N, ALIGNED)
    if SILU:
        beside = at + N if ALIGNED else at + column_stride.to(tl.int64) * N
        u = load_eight(x, beside, inside, column, column_stride, N, ALIGNED)
        s0, s1 = silu_mul(v[0], u[0], HW_SILU), silu_mul(v[1], u[1], HW_SILU)
        s2, s3 = silu_mul(v[2], u[2], HW_SILU), silu_mul(v[3], u[3], HW_SILU)
        s4, s5 = silu_mul(v[4], u[4], HW_SILU), silu_mul(v[5], u[5], HW_SILU)
        s6, s7 = silu_mul(v[6], u[6], HW_SILU), silu_mul(v[7], u[7], HW_SILU)
    else:
        s0, s1, s2, s3, s4, s5, s6, s7 = v
    return s0, s1, s2, s3, s4, s5, s6, s7


@triton.jit
def _load_words(x, at, inside, column):
    """Give the words of eight 16-bit columns, int32 [L, 4]."""
    place = (at >> 1)[:, None] + ((column >> 1)[:, None] + tl.arange(0, 4)[None, :])
    pointer = tl.multiple_of(x.to(tl.pointer_type(tl.int32)) + place, (16, 16))
    return tl.load(pointer, inside[:, None], other=0)


@triton.jit
def _of_bf16(word):
    """Give the two numbers of a word as fp32, each by one instruction."""
    low = (word << 16).to(tl.float32, bitcast=True)
    high = (word & -65536).to(tl.float32, bitcast=True)
    return low, high


@triton.jit
def _load(
    x, at, inside, column, column_stride, N: tl.constexpr, WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    columns = column[:, None] + tl.arange(0, WIDTH)[None, :]
    mask = inside[:, None] & (columns < N) if N % 16 != 0 else inside[:, None]
    place = columns if ALIGNED else columns.to(tl.int64) * column_stride
    pointer = x + (at[:, None] + place)
    if ALIGNED:
        # a hint on an argument of the kernel is lost, one on what is computed from it is not
        pointer = tl.multiple_of(pointer, (16, 16))
    return tl.load(pointer, mask, other=0.0).to(tl.float32)


@triton.jit
def _four(values):
    """Give the columns of [L, 4]."""
    even, odd = tl.split(tl.reshape(values, (values.shape[0], 2, 2)))
    v0, v2 = tl.split(even)
    v1, v3 = tl.split(odd)
    return v0, v1, v2, v3


@triton.jit
def _eight(values):
    """Give the columns of [L, 8]."""
    even, odd = tl.split(tl.reshape(values, (values.shape[0], 4, 2)))
    v0, v2, v4, v6 = _four(even)
    v1, v3, v5, v7 = _four(odd)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def magnitude(a, b):
    """Give max(|a|, |b|), NaN if either is."""
    return tl.maximum(tl.abs(a), tl.abs(b), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def amax_of_eight(v):
    """Give the largest magnitude of a tuple of eight tensors; NaN if one is."""
    low = magnitude(magnitude(v[0], v[1]), magnitude(v[2], v[3]))
    return magnitude(low, magnitude(magnitude(v[4], v[5]), magnitude(v[6], v[7])))


@triton.jit
def quantized_block(low, high, inside, inverse_global, HW8: tl.constexpr, FORM: tl.constexpr):
    """Give codes of scales (uint8) and the two words of codes (int32) of blocks.

    Args:
        low: Tuple of eight fp32 tensors, the first columns of a block.
        high: The others.
        inside: Whether the block exists; those that do not hold zeros.
        inverse_global: fp32 scalar, G.
        HW8: Whether the instruction makes fp8.
        FORM: How e2m1 is made.
    """
    amax = magnitude(amax_of_eight(low), amax_of_eight(high))
    if (FORM != PORTABLE) and (inverse_global > _LEAST_PLAIN) & (inverse_global < _MOST_PLAIN):
        scale, multiplier, usable = _plain_scale(amax, inverse_global, HW8)
        low_word = to_e2m1_word(*_times(low, multiplier), FORM)
        high_word = to_e2m1_word(*_times(high, multiplier), FORM)
    else:
        scale, multiplier, usable = _any_scale(amax, inverse_global, HW8)
        scale = tl.where(inside, scale, 0)
        low_word = _any_word(_times(low, multiplier), FORM)
        high_word = _any_word(_times(high, multiplier), FORM)
    return scale, tl.where(usable, low_word, 0), tl.where(usable, high_word, 0)


@triton.jit
def _plain_scale(amax, inverse_global, HW8: tl.constexpr):
    """Give codes of scales, multipliers RN(G / s), and which are usable, for a usual G.

    Division a / b by way of y, 1 / b within a unit in the last place: a · y, corrected once by its
    residual, is RN(a / b) for every a and all the b there are, those with four significant bits.
    tests/backends/triton/test_nvfp4_replayed.py looks at them all.
    """
    wanted = tl.minimum(amax * inverse_global, _SATURATED)
    six = tl.full(amax.shape, 6.0, tl.float32)
    wanted = _corrected(wanted, six, tl.full(amax.shape, _SIXTH, tl.float32))
    is_finite = amax.to(tl.int32, bitcast=True) < _INFINITY
    code = to_e4m3(tl.where(is_finite, wanted, float("nan")), HW8)
    s, usable = _value(code)
    y = tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=r,r", [s], dtype=tl.float32, is_pure=True, pack=1
    )
    y = tl.fma(tl.fma(-s, y, tl.full(s.shape, 1.0, tl.float32)), y, y)
    return code, _corrected(inverse_global + tl.zeros_like(s), s, y), usable


@triton.jit
def _corrected(a, b, y):
    q = a * y
    return tl.fma(tl.fma(-b, q, a), y, q)


@triton.jit
def _any_scale(amax, inverse_global, HW8: tl.constexpr):
    """Give codes of scales, multipliers RN(G / s), and which are usable."""
    wanted = amax * inverse_global
    wanted = tl.where(wanted > _SATURATED, _SATURATED, wanted)
    wanted = tl.div_rn(wanted, tl.full(amax.shape, 6.0, tl.float32))
    is_finite = amax.to(tl.int32, bitcast=True) < _INFINITY
    code = to_e4m3(tl.where(is_finite, wanted, float("nan")), HW8)
    s, usable = _value(code)
    return code, tl.div_rn(inverse_global + tl.zeros_like(s), s), usable


@triton.jit
def _value(code):
    """Give the fp32 values of codes of scales, and which are usable; 1 where one is not."""
    wide = code.to(tl.int32)
    usable = (wide > 0) & (wide < _NAN_CODE)
    # in fp8 as in fp32 the exponent is above the mantissa: shifted, a code is s * 2^-120
    s = (wide << 20).to(tl.float32, bitcast=True) * _REBIAS
    return tl.where(usable, s, 1.0), usable


@triton.jit
def _times(v, m):
    return v[0] * m, v[1] * m, v[2] * m, v[3] * m, v[4] * m, v[5] * m, v[6] * m, v[7] * m


@triton.jit
def _any_word(p, FORM: tl.constexpr):
    """Give words of codes of which NaN, a product of Inf and 0, has code 0."""
    word = to_e2m1_word(*p, FORM)
    low = tl.where(p[0] != p[0], 0xF, 0) | tl.where(p[1] != p[1], 0xF0, 0)
    low |= tl.where(p[2] != p[2], 0xF00, 0) | tl.where(p[3] != p[3], 0xF000, 0)
    high = tl.where(p[4] != p[4], 0xF, 0) | tl.where(p[5] != p[5], 0xF0, 0)
    high |= tl.where(p[6] != p[6], 0xF00, 0) | tl.where(p[7] != p[7], 0xF000, 0)
    return word & ~(low | (high << 16))


@triton.jit
def store_codes(
    data, low, high, row, group, exists, PADDED_N: tl.constexpr, ALIGNED: tl.constexpr
):  # fmt: skip
    """Store two words a block.

    Args:
        data: uint8 [padded_m, PADDED_N / 2], at a multiple of 8 bytes when ALIGNED.
        low: int32 [L], codes of the first eight columns.
        high: int32 [L], codes of the others.
        row: int32 [L].
        group: int32 [L].
        exists: [L].
        PADDED_N: Columns of data.
        ALIGNED: Whether 8 bytes may be stored at once.
    """
    words = tl.join(low, high)
    part = tl.arange(0, 2)
    if ALIGNED:
        at = row.to(tl.int64) * (PADDED_N // 8) + group * 2
        to = data.to(tl.pointer_type(tl.int32)) + (at[:, None] + part[None, :])
        tl.store(tl.multiple_of(to, (8, 8)), words, exists[:, None])
    else:
        at = row.to(tl.int64) * (PADDED_N // 2) + group * 8
        byte = tl.arange(0, 4)
        to = data + (at[:, None, None] + (part * 4)[None, :, None] + byte[None, None, :])
        codes = (words[:, :, None] >> (byte * 8)[None, None, :]).to(tl.uint8)
        tl.store(to, codes, exists[:, None, None])


@triton.jit
def global_scale_of(bits):
    """Give g of the finite amax of a tensor, given by its bits: ``RN(max(amax, 2^-60) / 2688)``."""
    amax = bits.to(tl.float32, bitcast=True)
    floored = tl.maximum(amax, 2.0**-60)
    return tl.where(bits == 0, 1.0, tl.div_rn(floored, tl.full(amax.shape, 2688.0, tl.float32)))


@triton.jit
def finite_bits(v):
    """Give the bits of |v| as int32, 0 for NaN and Inf."""
    bits = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(bits < _INFINITY, bits, 0)
