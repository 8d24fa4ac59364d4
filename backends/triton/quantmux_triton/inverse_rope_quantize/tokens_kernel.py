"""Inverse RoPE and quantization of head groups: fp8 codes, power-of-two scales, one launch.

o [t, heads, D] becomes codes on memory [G, t, heads / G · D] and scales whose columns run along the
tokens. One program takes TOKENS tokens x HEADS heads, whole heads: its D / GROUP groups per head
are as many tensors [TOKENS, HEADS, GROUP], all loaded before anything is computed. A group is in 8
lanes of 16 elements (GROUP = 128), so loads and stores are of 16 bytes, and the 4 scales of
neighbouring tokens leave as one piece.

Only groups that reach into the last ROPE columns are rotated; for the others nothing of it is
compiled. The two of a pair are neighbours in one lane: a reshape and a split are no instructions
and no second load. Cosines and sines are those of the token, the same for all heads of the tile.
Each product and each sum is rounded for itself, as the definition says.

Token counts, and the strides made of them, are plain integers for the compiler: it knows nothing of
them, and so one variant serves all. Of what it needs for loads of 16 bytes it is told here: strides
of o are multiples of 16 bytes when ALIGNED, and those of data are products of D.
"""

import triton
import triton.language as tl

from quantmux_triton.numerics_kernel import (
    exponent_byte,
    inverse_of,
    magnitude_bits,
    quotient,
    to_code,
    widen,
)
from quantmux_triton.silu_mul_quantize.scale_kernel import scale_of_constant

_POINTERS = ("o", "positions", "cache", "data", "scales")
_INTEGERS = (
    "t", "ld", "token_stride", "head_stride", "column_stride", "position_stride", "cache_rows",
    "cache_row_stride", "cache_column_stride",
)  # fmt: skip


@triton.jit
def rotated_back(value, cos, sin, turns):
    """Rotate pairs of neighbours on the last axis back; elements where not ``turns`` stay.

    Args:
        value: fp32 [T, H, C].
        cos: fp32 [T, 1, C / 2].
        sin: The same.
        turns: bool [1, 1, C / 2], pairs that are rotated.
    """
    pairs = tl.reshape(value, (value.shape[0], value.shape[1], value.shape[2] // 2, 2))
    even, odd = tl.split(pairs)
    turned_even = tl.where(turns, even * cos + odd * sin, even)
    turned_odd = tl.where(turns, odd * cos - even * sin, odd)
    return tl.reshape(tl.join(turned_even, turned_odd), value.shape)


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=_POINTERS)
def inverse_rope_kernel(
    o, positions, cache, data, scales,
    t, ld, token_stride, head_stride, column_stride, position_stride, cache_rows,
    cache_row_stride, cache_column_stride, eps, scale_ub,
    H: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, GROUPS: tl.constexpr,
    GROUP: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr, PACKED: tl.constexpr,
    FORMAT: tl.constexpr, HW: tl.constexpr, HOW: tl.constexpr, FMAX: tl.constexpr,
    HAS_UB: tl.constexpr, MULTIPLIED: tl.constexpr,
    ALIGNED: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rotate back and quantize TOKENS tokens x HEADS heads.

    Args:
        o: Values [t, H, D], any strides.
        positions: int64 [t], rows of the cache. One outside of it makes its token's rotated groups
            NaN.
        cache: fp32 [cache_rows, ROPE] = cos | sin, any strides.
        data: fp8 or uint8 [GROUPS, t, H / GROUPS · D], contiguous.
        scales: fp32 [GROUPS, S, ld] of S scales a group of heads; int32 [GROUPS, ceil(S / 4), ld]
            when PACKED.
        t: Tokens.
        ld: Tokens rounded up to 4.
        token_stride: Elements between tokens of o.
        head_stride: Elements between heads of o.
        column_stride: Elements between columns of o, 1 when ALIGNED.
        position_stride: Elements between positions.
        cache_rows: Positions that the cache has.
        cache_row_stride: Elements between rows of the cache.
        cache_column_stride: Elements between its columns, 1 when ALIGNED.
        eps: Floor of a group's amax.
        scale_ub: Ceiling of a group's amax, read when HAS_UB.
        H: Heads.
        D: Columns of a head.
        ROPE: Rotated columns of a head, its last.
        GROUPS: Groups of heads.
        GROUP: Columns that share a scale, a power of two.
        TOKENS: Tokens of a tile, a multiple of 4 or a divisor of it.
        HEADS: Heads of a tile, a power of two.
        PACKED: Whether scales are exponents, four in a word.
        FORMAT: What a code is.
        HW: Whether the instruction makes fp8.
        HOW: How values are divided by the scale.
        FMAX: Largest magnitude of a code.
        HAS_UB: Whether amax has a ceiling.
        MULTIPLIED: As of `scale_of_constant`.
        ALIGNED: Rows of o and of the cache begin at multiples of 16 bytes, without gaps between
            columns.
        STORE: Bytes that a store of codes may take at once.
        PDL: Whether the launch depends on the one before programmatically.
    """
    PER_HEAD: tl.constexpr = D // GROUP
    HEADS_OF: tl.constexpr = H // GROUPS
    S: tl.constexpr = HEADS_OF * PER_HEAD
    WORDS: tl.constexpr = (S + 3) // 4
    FIRST: tl.constexpr = D - ROPE
    ACROSS: tl.constexpr = (H + HEADS - 1) // HEADS
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    data = data.to(tl.pointer_type(tl.uint8), bitcast=True)
    program = tl.program_id(0)
    token = program // ACROSS * TOKENS + tl.arange(0, TOKENS)
    head = program % ACROSS * HEADS + tl.arange(0, HEADS)
    is_token = token < t
    inside = is_token[:, None] & (head < H)[None, :]
    at = token.to(tl.int64)[:, None] * token_stride + head.to(tl.int64)[None, :] * head_stride
    lane = tl.arange(0, GROUP)

    values = ()
    for j in tl.static_range(PER_HEAD):
        column = (j * GROUP + lane)[None, None, :]
        if not ALIGNED:
            column = column.to(tl.int64) * column_stride
        source = o + at[:, :, None] + column
        if ALIGNED:
            source = tl.multiple_of(source, (1, 1, 16))
        values = values + (tl.load(source, inside[:, :, None], other=0.0),)  # noqa: RUF005

    position = tl.load(positions + token.to(tl.int64) * position_stride, is_token, other=0)
    is_known = (position >= 0) & (position < cache_rows)
    table = (cache + tl.where(is_known, position, 0) * cache_row_stride)[:, None, None]
    pair = tl.arange(0, GROUP // 2)

    in_group = head % HEADS_OF
    to = ((head // HEADS_OF).to(tl.int64)[None, :] * t + token.to(tl.int64)[:, None]) * S
    to = (to + in_group[None, :] * PER_HEAD) * GROUP
    exists = (token < ld)[:, None] & (head < H)[None, :]
    word = tl.zeros((TOKENS, HEADS), tl.int32)
    for j in tl.static_range(PER_HEAD):
        value = widen(values[j])
        if (j + 1) * GROUP > FIRST:
            # pairs of this group that turn, and where their cosines are
            angle = j * (GROUP // 2) + pair - FIRST // 2
            turns = (angle >= 0)[None, None, :]
            where = angle[None, None, :]
            if not ALIGNED:
                where = where.to(tl.int64) * cache_column_stride
                half = cache_column_stride.to(tl.int64) * (ROPE // 2)
            else:
                half = ROPE // 2
            seen = turns & is_known[:, None, None]
            cosines = table + where
            sines = cosines + half
            if ALIGNED and ROPE % 8 == 0 and D % 8 == 0:
                cosines = tl.multiple_of(cosines, (1, 1, 16))
                sines = tl.multiple_of(sines, (1, 1, 16))
            cos = tl.load(cosines, seen, other=float("nan"))
            sin = tl.load(sines, seen, other=float("nan"))
            value = rotated_back(value, cos, sin, turns)
        amax = tl.max(magnitude_bits(value), axis=2)
        scale = scale_of_constant(amax, eps, scale_ub, FMAX, HAS_UB, True, MULTIPLIED)
        inverse = inverse_of(scale, HOW)
        code = to_code(quotient(value, scale[:, :, None], inverse[:, :, None], HOW), FORMAT, HW)
        place = to[:, :, None] + (j * GROUP + lane)[None, None, :]
        tl.store(tl.multiple_of(data + place, (1, 1, STORE)), code, inside[:, :, None])
        # pad rows of a column of scales are written too, and zero
        scale = tl.where(is_token[:, None], scale, 0.0)
        if not PACKED:
            column_of = (head * PER_HEAD + j).to(tl.int64)[None, :] * ld
            tl.store(scales + column_of + token[:, None], scale, exists)
        elif PER_HEAD % 4 == 0:
            word = word | (exponent_byte(scale) << (j % 4 * 8))
            if j % 4 == 3:
                column_of = (head * (PER_HEAD // 4) + j // 4).to(tl.int64)[None, :] * ld
                tl.store(scales + column_of + token[:, None], word, exists)
                word = tl.zeros((TOKENS, HEADS), tl.int32)
        else:
            # words hold groups of several heads: byte by byte
            s = in_group * PER_HEAD + j
            column_of = (head // HEADS_OF * WORDS + s // 4).to(tl.int64)[None, :] * ld
            byte = (column_of + token[:, None]) * 4 + (s % 4)[None, :]
            bytes_ = scales.to(tl.pointer_type(tl.uint8))
            tl.store(bytes_ + byte, exponent_byte(scale).to(tl.uint8), exists)
    if PACKED and S % 4 != 0:
        # the bytes of the last word that no group has
        is_last = exists & (in_group == HEADS_OF - 1)[None, :]
        column_of = ((head // HEADS_OF + 1) * WORDS - 1).to(tl.int64)[None, :] * ld
        for j in tl.static_range(S % 4, 4):
            byte = (column_of + token[:, None]) * 4 + j
            bytes_ = scales.to(tl.pointer_type(tl.uint8))
            tl.store(bytes_ + byte, tl.zeros((TOKENS, HEADS), tl.uint8), is_last)
