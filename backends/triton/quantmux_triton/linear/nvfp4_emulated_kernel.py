"""y = x · Wᵀ with NVFP4 weights and NVFP4 activations, on GPUs without FP4 units.

The same values in wider arithmetic: codes times block scales of both operands are exact in bf16
(six significant bits at most), their products exact in the fp32 sum's inputs, and the two global
multipliers meet in ``alpha = RN(g_a · g_w)``, as the definition has it. Weights lie and are decoded
as for `nvfp4_w4a16_kernel`; x is decoded from the layout its quantizer writes: bytes with the even
column in the low nibble, scales row by row or in the tiles of FP4 units.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.e2m1_decode_kernel import decode_slab, prefetch_slabs, whole_slab
from quantmux_triton.linear.epilogue_kernel import store_rows
from quantmux_triton.linear.shares_kernel import first_unit, sum_of_shares
from quantmux_triton.linear.x_tile_kernel import product

RUNTIME_INTEGERS = ("M", "N", "x_stride", "layout", "y_stride", "whole", "shares")

# how the scales of x lie: known at a call, and no reason for another variant
ROW_MAJOR = tl.constexpr(0)
SWIZZLED_128X4 = tl.constexpr(1)
SWIZZLED_8X4 = tl.constexpr(2)


@triton.jit
def _of_row(row, groups, layout):
    """Give what a row adds to the offset of its scales; ``groups`` are stored in a row."""
    quads = (groups + 3) // 4
    tall = (row >> 7) * quads * 512 + (row & 31) * 16 + ((row >> 5) & 3) * 4
    short = (row >> 3) * quads * 32 + (row & 7) * 4
    swizzled = tl.where(layout == SWIZZLED_8X4, short, tall)
    return tl.where(layout == ROW_MAJOR, row * groups, swizzled)


@triton.jit
def _of_group(group, layout):
    """Give what a group adds to the offset of its scale."""
    apart = tl.where(layout == SWIZZLED_8X4, 32, 512)
    return tl.where(layout == ROW_MAJOR, group, (group >> 2) * apart + (group & 3))


@triton.jit
def _e4m3(byte):
    """Give the fp32 value of E4M3 codes that are not negative; NaN for NaN."""
    bits = byte.to(tl.int32) & 0x7F
    value = (bits << 20).to(tl.float32, bitcast=True) * 2.0**120
    return tl.where(bits == 0x7F, float("nan"), value)


@triton.jit
def _e2m1(code):
    """Give the fp32 value of E2M1 codes."""
    size = ((code & 7) << 22).to(tl.float32, bitcast=True) * 2.0**126
    return tl.where((code & 8) != 0, -size, size)


@triton.jit
def _x_slab(x_rows, xs_rows, is_row, slab, layout, BM: tl.constexpr, K: tl.constexpr):
    """Give the values of x in a slab, ``code · s``, fp32 [BM, 256]; zero beyond M and K."""
    at = slab * 128 + tl.arange(0, 128)
    inside = is_row[:, None] & (at < (K + 15) // 16 * 8)[None, :]
    packed = tl.load(x_rows + at[None, :], mask=inside, other=0).to(tl.int32)
    # the even column comes from the low nibble
    codes = tl.reshape(tl.join(packed & 0xF, packed >> 4), (BM, 256))
    group = slab * 16 + tl.arange(0, 16)
    there = is_row[:, None] & (group < (K + 15) // 16)[None, :]
    scale = tl.load(xs_rows + _of_group(group, layout)[None, :], mask=there, other=0)
    scale = _e4m3(scale)
    spread = tl.reshape(tl.broadcast_to(scale[:, :, None], (BM, 16, 16)), (BM, 256))
    return _e2m1(codes) * spread


@triton.jit
def _sum_of_slabs(
    w_rows,
    s_rows,
    x_rows,
    xs_rows,
    is_row,
    layout,
    wide_n,
    first,
    last,
    K: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give the sum over the slabs [first, last), [BN, BM]."""
    w_ptrs = w_rows[:, None] + tl.arange(0, 64)[None, :]
    s_ptrs = s_rows[:, None] + tl.arange(0, 4)[None, :]
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for slab in range(first, last):
        words = tl.load(w_ptrs + slab * wide_n * 64, eviction_policy="evict_first")
        scales = tl.load(s_ptrs + slab * wide_n * 4, eviction_policy="evict_first")
        x = _x_slab(x_rows, xs_rows, is_row, slab, layout, BM, K)
        w0, w1, w2, w3 = decode_slab(words, scales, BN, False, PLAIN)
        w = whole_slab(w0, w1, w2, w3, BN)
        acc = product(w, x if PLAIN else x.to(tl.bfloat16), acc, PLAIN)
    return acc


@triton.jit
def _store(
    acc, ga_ptr, gw_ptr, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Multiply sums [BN, BM] by alpha, add the bias, round once, store."""
    # weights were decoded 2^7 too small
    total = tl.trans(acc) * 128.0 * (tl.load(ga_ptr) * tl.load(gw_ptr))
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel).to(tl.float32)[None, :]
    store_rows(total, y_ptr, y_stride, rows, columns, M, N)


@triton.jit(
    do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=("bias_ptr", "y_ptr")
)
def nvfp4_emulated(
    w_ptr,
    s_ptr,
    x_ptr,
    xs_ptr,
    ga_ptr,
    gw_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    x_stride,
    layout,
    y_stride,
    whole,
    shares,
    K: tl.constexpr,
    X_IS_8: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SHARED: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or one share of all the tiles of these rows.

    Args:
        w_ptr: int16 [ceil(K / 256), N, 64], see `e2m1_decode_kernel`.
        s_ptr: int32 [ceil(K / 256), N, 4], likewise.
        x_ptr: uint8 [M, x_stride], two codes a byte.
        xs_ptr: uint8, the block scales of x as ``layout`` says.
        ga_ptr: fp32 [1], the global multiplier of x.
        gw_ptr: fp32 [1], the global multiplier of the weights.
        bias_ptr: fp32 [N]; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: See `sum_of_shares`, for each tile of tokens; not touched without IS_SHARED.
        counter_ptr: Likewise.
        M: Tokens.
        N: Channels.
        x_stride: Bytes of a row of x.
        layout: ROW_MAJOR, SWIZZLED_128X4 or SWIZZLED_8X4.
        y_stride: Elements from a row of y to the next.
        whole: Tiles of these rows that have a program each; not read without IS_SHARED.
        shares: Programs for the rest of them, if any; likewise.
        K: Products of a sum.
        X_IS_8: x_stride is a multiple of 8.
        BN: Channels of a tile.
        BM: Tokens of a tile.
        HAS_BIAS: There is a bias.
        IS_SHARED: Not every tile has a program of its own.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Slabs to ask for before waiting; only with PDL.
        PLAIN: Decode and multiply in fp32: what the interpreter can.
    """
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    # programs that read the same weights are neighbours
    tile_m = pid % tiles_m
    program = pid // tiles_m
    slabs: tl.constexpr = (K + 255) // 256
    unit = program * slabs
    end = unit + slabs
    if IS_SHARED:
        units = (tl.cdiv(N, BN) - whole) * slabs
        is_whole = program < whole
        share = tl.maximum(program - whole, 0)
        if not is_whole:
            unit = whole * slabs + first_unit(share, units, shares)
            end = whole * slabs + first_unit(share + 1, units, shares)
    if PREFETCH > 0:
        slab = unit % slabs
        soon = tl.minimum(slab + PREFETCH, slabs)
        prefetch_slabs(w_ptr, s_ptr, slab, soon, unit // slabs * BN, N, BN)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    if X_IS_8:
        x_stride = x_stride // 8 * 8
    x_rows = x_ptr + rows[:, None].to(tl.int64) * x_stride
    xs_rows = xs_ptr + _of_row(rows.to(tl.int64), x_stride // 8, layout)[:, None]
    # slabs times rows pass 2^31 elements
    wide_n = N.to(tl.int64)
    if IS_SHARED:
        partials = partial_ptr + tile_m * (shares * 2 * BN * BM)
        counters = counter_ptr + tile_m * tl.cdiv(N, BN)
        for tile in range(unit // slabs, (end - 1) // slabs + 1):
            columns = tile * BN + tl.arange(0, BN)
            # rows beyond N read the last one; nothing of them is stored
            channel = tl.minimum(columns, N - 1)
            wide = channel.to(tl.int64)
            first = tl.maximum(unit - tile * slabs, 0)
            last = tl.minimum(end - tile * slabs, slabs)
            acc = _sum_of_slabs(
                w_ptr + wide * 64, s_ptr + wide * 4, x_rows, xs_rows, is_row, layout,
                wide_n, first, last, K, BN, BM, PLAIN,
            )  # fmt: skip
            acc, is_last = sum_of_shares(
                acc, partials, counters, share, shares, tile - whole, slabs, units, is_whole,
                BN, BM,
            )  # fmt: skip
            if is_last:
                _store(
                    acc, ga_ptr, gw_ptr, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N,
                    HAS_BIAS,
                )  # fmt: skip
    else:
        columns = program * BN + tl.arange(0, BN)
        channel = tl.minimum(columns, N - 1)
        wide = channel.to(tl.int64)
        acc = _sum_of_slabs(
            w_ptr + wide * 64, s_ptr + wide * 4, x_rows, xs_rows, is_row, layout,
            wide_n, 0, slabs, K, BN, BM, PLAIN,
        )  # fmt: skip
        _store(
            acc, ga_ptr, gw_ptr, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N, HAS_BIAS
        )
