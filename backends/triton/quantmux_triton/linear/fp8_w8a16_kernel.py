"""y = x · Wᵀ with FP8 weights and x in bf16 or fp16.

The shape of `nvfp4_w4a16_kernel`: operands swapped, weights read once, widened in registers and
handed to the matrix unit from there, the work shared out evenly where tiles would not do it.

A slab is 256 products of K: a row of it is 128 words of 16 bits, word c with the code of column c
in its low byte and that of column 128 + c in its high one. So a tile of words becomes two tiles of
weights elementwise, and with blocks of 128 each of them has one scale a row.

An E4M3 code is sign, four bits of exponent, three of mantissa. At bit 15 and bits 10 … 4 they are a
bf16 number 2^120 times too small, at bit 15 and 13 … 7 an fp16 number 2^8 times too small; one
product with that power of two makes them right, subnormal codes too. (NaN codes are refused when
weights are prepared: they would come out as ±480.)

Scales are fp32 and multiply sums: the whole one, or with blocks that of 128 columns at a time.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.epilogue_kernel import store_rows
from quantmux_triton.linear.shares_kernel import first_unit, sum_of_shares
from quantmux_triton.linear.x_tile_kernel import load_x, product

RUNTIME_INTEGERS = ("M", "N", "x_stride", "y_stride", "whole", "shares")

# how weights are scaled
ONE_SCALE = tl.constexpr(0)
BY_CHANNEL = tl.constexpr(1)
BY_BLOCK = tl.constexpr(2)

_CODES_BF16 = tl.constexpr("""
{
.reg .b32 lo, hi, s, u, z;
mov.b32 z, 0x80008000;
mov.b32 u, 0x7b807b80;
shl.b32 lo, $2, 4;
shl.b32 s, $2, 8;
and.b32 s, s, 0x80008000;
lop3.b32 lo, lo, 0x07f007f0, s, 0xea;
shr.b32 hi, $2, 4;
and.b32 s, $2, 0x80008000;
lop3.b32 hi, hi, 0x07f007f0, s, 0xea;
fma.rn.bf16x2 $0, lo, u, z;
fma.rn.bf16x2 $1, hi, u, z;
}
""")

_CODES_FP16 = tl.constexpr("""
{
.reg .b32 lo, hi, s, u, z;
mov.b32 z, 0x80008000;
mov.b32 u, 0x5c005c00;
shl.b32 lo, $2, 7;
shl.b32 s, $2, 8;
and.b32 s, s, 0x80008000;
lop3.b32 lo, lo, 0x3f803f80, s, 0xea;
shr.b32 hi, $2, 1;
and.b32 s, $2, 0x80008000;
lop3.b32 hi, hi, 0x3f803f80, s, 0xea;
fma.rn.f16x2 $0, lo, u, z;
fma.rn.f16x2 $1, hi, u, z;
}
""")

_TWO_BF16 = tl.constexpr((tl.bfloat16, tl.bfloat16))
_TWO_FP16 = tl.constexpr((tl.float16, tl.float16))


@triton.jit
def _plain_half(words, shift: tl.constexpr):
    """Give the weights of one byte of each word in fp32, by plain operations."""
    code = (words.to(tl.int32) >> shift) & 0xFF
    size = ((code & 0x7F) << 20).to(tl.float32, bitcast=True) * 2.0**120
    return tl.where(code >= 128, -size, size)


@triton.jit
def widened(words, FP16: tl.constexpr, PLAIN: tl.constexpr):
    """Give the weights of a slab as two tiles of 128 columns; in fp32 when PLAIN."""
    if PLAIN:
        lo = _plain_half(words, 0)
        hi = _plain_half(words, 8)
    else:
        lo, hi = tl.inline_asm_elementwise(
            _CODES_FP16 if FP16 else _CODES_BF16,
            "=r,=r,r",
            [words],
            dtype=_TWO_FP16 if FP16 else _TWO_BF16,
            is_pure=True,
            pack=2,
        )
    return lo, hi


@triton.jit
def _whole(lo, hi, BN: tl.constexpr):
    """Give one tile [BN, 256] in the order of K; no value changes its thread."""
    return tl.reshape(tl.permute(tl.join(lo, hi), (0, 2, 1)), (BN, 256))


@triton.jit
def _sum_of_slabs(
    w_rows,
    s_rows,
    x_rows,
    is_row,
    wide_n,
    first,
    last,
    K: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    SCALES: tl.constexpr,
    JOINED: tl.constexpr,
    FP16: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give the sum over the slabs [first, last), [BN, BM], scaled if scales are BY_BLOCK."""
    half = tl.arange(0, 128)
    all_of_it = tl.arange(0, 256)
    w_ptrs = w_rows[:, None] + half[None, :]
    blocks: tl.constexpr = (K + 127) // 128
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for slab in range(first, last):
        words = tl.load(w_ptrs + slab * wide_n * 128, eviction_policy="evict_first")
        at = slab * 256
        lo, hi = widened(words, FP16, PLAIN)
        if JOINED:
            x = load_x(x_rows + (at + all_of_it)[None, :], at + all_of_it, is_row, K)
            acc = product(_whole(lo, hi, BN), x, acc, PLAIN)
        else:
            x0 = load_x(x_rows + (at + half)[None, :], at + half, is_row, K)
            x1 = load_x(x_rows + (at + 128 + half)[None, :], at + 128 + half, is_row, K)
            if SCALES == BY_BLOCK:
                s0 = tl.load(s_rows + slab * 2)
                # a block beyond K holds zeros, whatever its scale
                s1 = tl.load(s_rows + tl.minimum(slab * 2 + 1, blocks - 1))
                none = tl.zeros([BN, BM], dtype=tl.float32)
                acc += product(lo, x0, none, PLAIN) * s0[:, None]
                acc += product(hi, x1, none, PLAIN) * s1[:, None]
            else:
                acc = product(lo, x0, acc, PLAIN)
                acc = product(hi, x1, acc, PLAIN)
    return acc


@triton.jit
def _store(
    acc,
    s_ptr,
    bias_ptr,
    y_ptr,
    y_stride,
    rows,
    columns,
    channel,
    M,
    N,
    SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Scale sums [BN, BM], add the bias, round once, store."""
    total = tl.trans(acc)
    if SCALES == ONE_SCALE:
        total = total * tl.load(s_ptr)
    elif SCALES == BY_CHANNEL:
        total = total * tl.load(s_ptr + channel)[None, :]
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel).to(tl.float32)[None, :]
    store_rows(total, y_ptr, y_stride, rows, columns, M, N)


@triton.jit(
    do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=("bias_ptr", "y_ptr")
)
def fp8_w8a16(
    w_ptr,
    s_ptr,
    x_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    x_stride,
    y_stride,
    whole,
    shares,
    K: tl.constexpr,
    X_IS_8: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SHARED: tl.constexpr,
    JOINED: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    FP16: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or one share of all the tiles of these rows.

    Args:
        w_ptr: int16 [ceil(K / 256), N, 128], see above.
        s_ptr: fp32 [1], [N] or [ceil(N / 128), ceil(K / 128)].
        x_ptr: bf16 or fp16 [M, K], rows x_stride apart.
        bias_ptr: fp32 [N]; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: See `sum_of_shares`, for each tile of tokens; not touched without IS_SHARED.
        counter_ptr: Likewise.
        M: Tokens.
        N: Channels.
        x_stride: Elements from a row of x to the next.
        y_stride: Elements from a row of y to the next.
        whole: Tiles of these rows that have a program each; not read without IS_SHARED.
        shares: Programs for the rest of them, if any; likewise.
        K: Products of a sum.
        X_IS_8: x_stride is a multiple of 8.
        BN: Channels of a tile.
        BM: Tokens of a tile.
        SCALES: ONE_SCALE, BY_CHANNEL or BY_BLOCK.
        HAS_BIAS: There is a bias.
        IS_SHARED: Not every tile has a program of its own.
        JOINED: One product of 256 columns instead of two of 128; not BY_BLOCK.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Slabs to ask for before waiting; only with PDL.
        FP16: x is fp16.
        PLAIN: Widen and multiply in fp32: what the interpreter can.
    """
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    # programs that read the same weights are neighbours
    tile_m = pid % tiles_m
    program = pid // tiles_m
    slabs: tl.constexpr = (K + 255) // 256
    blocks: tl.constexpr = (K + 127) // 128
    unit = program * slabs
    end = unit + slabs
    if IS_SHARED:
        units = (tl.cdiv(N, BN) - whole) * slabs
        is_whole = program < whole
        share = tl.maximum(program - whole, 0)
        if not is_whole:
            unit = whole * slabs + first_unit(share, units, shares)
            end = whole * slabs + first_unit(share + 1, units, shares)
    # slabs times rows pass 2^31 elements
    wide_n = N.to(tl.int64)
    if PREFETCH > 0:
        slab = unit % slabs
        row = tl.minimum(unit // slabs * BN + tl.arange(0, BN), N - 1)
        lines = w_ptr + row[:, None].to(tl.int64) * 128 + tl.arange(0, 2)[None, :] * 64
        for soon in range(slab, tl.minimum(slab + PREFETCH, slabs)):
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; // $0",
                "=r,l",
                [(lines + soon * wide_n * 128).to(tl.uint64, bitcast=True)],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    if X_IS_8:
        x_stride = x_stride // 8 * 8
    x_rows = x_ptr + rows[:, None].to(tl.int64) * x_stride
    if IS_SHARED:
        partials = partial_ptr + tile_m * (shares * 2 * BN * BM)
        counters = counter_ptr + tile_m * tl.cdiv(N, BN)
        for tile in range(unit // slabs, (end - 1) // slabs + 1):
            columns = tile * BN + tl.arange(0, BN)
            # rows beyond N read the last one; nothing of them is stored
            channel = tl.minimum(columns, N - 1)
            first = tl.maximum(unit - tile * slabs, 0)
            last = tl.minimum(end - tile * slabs, slabs)
            acc = _sum_of_slabs(
                w_ptr + channel.to(tl.int64) * 128, s_ptr + channel // 128 * blocks,
                x_rows, is_row, wide_n, first, last, K, BN, BM, SCALES, JOINED, FP16, PLAIN,
            )  # fmt: skip
            acc, is_last = sum_of_shares(
                acc, partials, counters, share, shares, tile - whole, slabs, units, is_whole,
                BN, BM,
            )  # fmt: skip
            if is_last:
                _store(
                    acc, s_ptr, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N,
                    SCALES, HAS_BIAS,
                )  # fmt: skip
    else:
        columns = program * BN + tl.arange(0, BN)
        channel = tl.minimum(columns, N - 1)
        acc = _sum_of_slabs(
            w_ptr + channel.to(tl.int64) * 128, s_ptr + channel // 128 * blocks,
            x_rows, is_row, wide_n, 0, slabs, K, BN, BM, SCALES, JOINED, FP16, PLAIN,
        )  # fmt: skip
        _store(
            acc, s_ptr, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N, SCALES, HAS_BIAS
        )
