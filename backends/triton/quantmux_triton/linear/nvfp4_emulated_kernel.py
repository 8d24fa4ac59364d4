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
from quantmux_triton.linear.epilogue_kernel import store_rows, sum_of_splits

RUNTIME_INTEGERS = ("M", "N", "x_stride", "layout", "y_stride", "splits")

# how the scales of x lie: known at a call, and no reason for another variant
ROW_MAJOR = tl.constexpr(0)
SWIZZLED_128X4 = tl.constexpr(1)
SWIZZLED_8X4 = tl.constexpr(2)


@triton.jit
def _scale_offset(row, group, groups, layout):
    """Give the byte of the scale of (row, group); ``groups`` are stored in a row."""
    quads = (groups + 3) // 4
    plain = row * groups + group
    tall = ((row >> 7) * quads + (group >> 2)) * 512 + (row & 31) * 16
    tall += ((row >> 5) & 3) * 4 + (group & 3)
    short = (row >> 3) * (quads * 32) + (group >> 2) * 32 + (row & 7) * 4 + (group & 3)
    return tl.where(layout == ROW_MAJOR, plain, tl.where(layout == SWIZZLED_8X4, short, tall))


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
def _x_slab(x_rows, xs_ptr, rows, is_row, slab, groups, layout, BM: tl.constexpr, K: tl.constexpr):
    """Give the values of x in a slab, ``code · s``, fp32 [BM, 256]; zero beyond M and K."""
    at = slab * 128 + tl.arange(0, 128)
    inside = is_row[:, None] & (at < (K + 15) // 16 * 8)[None, :]
    packed = tl.load(x_rows + at[None, :], mask=inside, other=0).to(tl.int32)
    # the even column comes from the low nibble
    codes = tl.reshape(tl.join(packed & 0xF, packed >> 4), (BM, 256))
    group = slab * 16 + tl.arange(0, 16)
    there = is_row[:, None] & (group < (K + 15) // 16)[None, :]
    offset = _scale_offset(rows.to(tl.int64)[:, None], group[None, :], groups, layout)
    scale = _e4m3(tl.load(xs_ptr + offset, mask=there, other=0))
    spread = tl.reshape(tl.broadcast_to(scale[:, :, None], (BM, 16, 16)), (BM, 256))
    return _e2m1(codes) * spread


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
    splits,
    K: tl.constexpr,
    X_IS_8: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or the sum over one split of K of it.

    Args:
        w_ptr: int16 [ceil(K / 256), N, 64], see `e2m1_decode_kernel`.
        s_ptr: int32 [ceil(K / 256), N, 4], likewise.
        x_ptr: uint8 [M, x_stride], two codes a byte.
        xs_ptr: uint8, the block scales of x as ``layout`` says.
        ga_ptr: fp32 [1], the global multiplier of x.
        gw_ptr: fp32 [1], the global multiplier of the weights.
        bias_ptr: fp32 [N]; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: See `sum_of_splits`; not touched without IS_SPLIT.
        counter_ptr: Likewise.
        M: Tokens.
        N: Channels.
        x_stride: Bytes of a row of x.
        layout: ROW_MAJOR, SWIZZLED_128X4 or SWIZZLED_8X4.
        y_stride: Elements from a row of y to the next.
        splits: Parts that K is cut into, whole slabs each.
        K: Products of a sum.
        X_IS_8: x_stride is a multiple of 8.
        BN: Channels of a tile.
        BM: Tokens of a tile.
        HAS_BIAS: There is a bias.
        IS_SPLIT: splits > 1.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Slabs to ask for before waiting; only with PDL.
        PLAIN: Decode and multiply in fp32: what the interpreter can.
    """
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    # programs that read the same weights are neighbours
    tile_m = pid % tiles_m
    rest = pid // tiles_m
    tile_n = rest % tiles_n
    split = rest // tiles_n

    slabs: tl.constexpr = (K + 255) // 256
    first = split * slabs // splits
    last = (split + 1) * slabs // splits
    # slabs times rows pass 2^31 elements
    wide_n = N.to(tl.int64)

    columns = tile_n * BN + tl.arange(0, BN)
    if PREFETCH > 0:
        soon = tl.minimum(first + PREFETCH, last)
        prefetch_slabs(w_ptr, s_ptr, first, soon, tile_n * BN, N, BN)
    # rows beyond N read the last one; nothing of them is stored
    channel = tl.minimum(columns, N - 1)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    if X_IS_8:
        x_stride = x_stride // 8 * 8
    x_rows = x_ptr + rows[:, None].to(tl.int64) * x_stride
    groups = x_stride // 8
    w_ptrs = w_ptr + channel[:, None].to(tl.int64) * 64 + tl.arange(0, 64)[None, :]
    s_ptrs = s_ptr + channel[:, None].to(tl.int64) * 4 + tl.arange(0, 4)[None, :]
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for slab in range(first, last):
        words = tl.load(w_ptrs + slab * wide_n * 64, eviction_policy="evict_first")
        scales = tl.load(s_ptrs + slab * wide_n * 4, eviction_policy="evict_first")
        x = _x_slab(x_rows, xs_ptr, rows, is_row, slab, groups, layout, BM, K)
        w0, w1, w2, w3 = decode_slab(words, scales, BN, False, PLAIN)
        w = whole_slab(w0, w1, w2, w3, BN)
        if PLAIN:
            acc += tl.dot(w, tl.trans(x), input_precision="ieee")
        else:
            acc = tl.dot(w, tl.trans(x.to(tl.bfloat16)), acc)

    total = tl.trans(acc)
    is_last = True
    if IS_SPLIT:
        tile = tile_n * tiles_m + tile_m
        total, is_last = sum_of_splits(
            total, partial_ptr, counter_ptr, tile, split, splits, BM, BN, 4
        )
    if is_last:
        # weights were decoded 2^7 too small
        total = total * 128.0 * (tl.load(ga_ptr) * tl.load(gw_ptr))
        if HAS_BIAS:
            total += bias[None, :]
        store_rows(total, y_ptr, y_stride, rows, columns, M, N)
