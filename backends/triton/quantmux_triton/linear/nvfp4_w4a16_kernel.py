"""y = x · Wᵀ with NVFP4 weights and x in bf16 or fp16.

For few tokens this is a stream of weights of 0.5625 bytes each, and the danger is not the memory
but the instructions between it and the matrix unit: at 2.2 times the speed of bf16 weights there
are six issue slots for each weight and lane. So:

- **Operands are swapped**, ``acc[BN, BM] = W[BN, 256] · xᵀ[256, BM]``: weights are the 64 rows of
  Hopper's matrix unit, tokens its narrow side, and each weight is decoded once per tile of tokens.
- **Weights never go back to shared memory.** They are loaded into it as they lie, read by the
  thread that will feed them to the matrix unit, decoded in its registers (`e2m1_decode_kernel`,
  about two instructions a weight) and handed over there.
- **A tile of a slab is contiguous in memory**: prepared weights are [K / 256, N, 128 bytes], their
  scales [K / 256, N, 16 bytes].
- **K may be split** over programs where N alone gives too few; sums meet in the same launch, in a
  fixed order (`epilogue_kernel.sum_of_splits`).
- With ``PDL`` a program may start while the kernel before it still runs, and asks for its first
  slabs of weights before it waits for x.

``y = (Σ · 2^7) · g + bias`` in fp32, rounded once; Σ holds the block scales.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.e2m1_decode_kernel import decode_slab, prefetch_slabs, whole_slab
from quantmux_triton.linear.epilogue_kernel import store_rows, sum_of_splits

RUNTIME_INTEGERS = ("M", "N", "x_stride", "y_stride", "splits")


@triton.jit
def _x_tile(pointers, column, is_row, K: tl.constexpr, WHOLE: tl.constexpr):
    """Load x at the columns from ``column`` on, zero beyond M and K."""
    inside = is_row[:, None] if WHOLE else is_row[:, None] & (column < K)[None, :]
    return tl.load(pointers, mask=inside, other=0.0, eviction_policy="evict_last")


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def nvfp4_w4a16(
    w_ptr,
    s_ptr,
    x_ptr,
    g_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    x_stride,
    y_stride,
    splits,
    K: tl.constexpr,
    X_IS_8: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    JOINED: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    FP16: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or the sum over one split of K of it.

    Args:
        w_ptr: int16 [ceil(K / 256), N, 64], see `e2m1_decode_kernel`.
        s_ptr: int32 [ceil(K / 256), N, 4], likewise.
        x_ptr: bf16 or fp16 [M, K], rows x_stride apart.
        g_ptr: fp32 [1], the weights' global multiplier.
        bias_ptr: [N], any float; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: See `sum_of_splits`; not touched without IS_SPLIT.
        counter_ptr: Likewise.
        M: Tokens.
        N: Channels.
        x_stride: Elements from a row of x to the next.
        y_stride: Elements from a row of y to the next.
        splits: Parts that K is cut into, whole slabs each.
        K: Products of a sum.
        X_IS_8: x_stride is a multiple of 8.
        BN: Channels of a tile.
        BM: Tokens of a tile.
        HAS_BIAS: There is a bias.
        IS_SPLIT: splits > 1.
        JOINED: One product of 256 columns instead of four of 64.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Slabs to ask for before waiting; only with PDL.
        FP16: x is fp16.
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

    columns = tile_n * BN + tl.arange(0, BN)
    if PREFETCH > 0:
        soon = tl.minimum(first + PREFETCH, last)
        prefetch_slabs(w_ptr, s_ptr, first, soon, tile_n * BN, N, BN)
    # rows beyond N read the last one; nothing of them is stored
    channel = tl.minimum(columns, N - 1)
    alpha = tl.load(g_ptr)
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
    whole: tl.constexpr = K % 256 == 0
    w_ptrs = w_ptr + channel[:, None].to(tl.int64) * 64 + tl.arange(0, 64)[None, :]
    s_ptrs = s_ptr + channel[:, None].to(tl.int64) * 4 + tl.arange(0, 4)[None, :]
    quarter = tl.arange(0, 64)
    all_of_it = tl.arange(0, 256)
    # slabs times rows pass 2^31 elements
    wide_n = N.to(tl.int64)
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for slab in range(first, last):
        row = slab * wide_n
        words = tl.load(w_ptrs + row * 64, eviction_policy="evict_first")
        scales = tl.load(s_ptrs + row * 4, eviction_policy="evict_first")
        at = slab * 256
        w0, w1, w2, w3 = decode_slab(words, scales, BN, FP16, PLAIN)
        if JOINED:
            x = _x_tile(x_rows + (at + all_of_it)[None, :], at + all_of_it, is_row, K, whole)
            w = whole_slab(w0, w1, w2, w3, BN)
            if PLAIN:
                acc += tl.dot(w, tl.trans(x.to(tl.float32)), input_precision="ieee")
            else:
                acc = tl.dot(w, tl.trans(x), acc)
        else:
            c0 = at + quarter
            x0 = _x_tile(x_rows + c0[None, :], c0, is_row, K, whole)
            x1 = _x_tile(x_rows + (c0 + 64)[None, :], c0 + 64, is_row, K, whole)
            x2 = _x_tile(x_rows + (c0 + 128)[None, :], c0 + 128, is_row, K, whole)
            x3 = _x_tile(x_rows + (c0 + 192)[None, :], c0 + 192, is_row, K, whole)
            if PLAIN:
                acc += tl.dot(w0, tl.trans(x0.to(tl.float32)), input_precision="ieee")
                acc += tl.dot(w1, tl.trans(x1.to(tl.float32)), input_precision="ieee")
                acc += tl.dot(w2, tl.trans(x2.to(tl.float32)), input_precision="ieee")
                acc += tl.dot(w3, tl.trans(x3.to(tl.float32)), input_precision="ieee")
            else:
                acc = tl.dot(w0, tl.trans(x0), acc)
                acc = tl.dot(w1, tl.trans(x1), acc)
                acc = tl.dot(w2, tl.trans(x2), acc)
                acc = tl.dot(w3, tl.trans(x3), acc)

    total = tl.trans(acc)
    is_last = True
    if IS_SPLIT:
        tile = tile_n * tiles_m + tile_m
        total, is_last = sum_of_splits(
            total, partial_ptr, counter_ptr, tile, split, splits, BM, BN, 4
        )
    if is_last:
        total = total * 128.0 * alpha
        if HAS_BIAS:
            total += bias[None, :]
        store_rows(total, y_ptr, y_stride, rows, columns, M, N)
