"""y = x · Wᵀ with NVFP4 weights and x in bf16 or fp16.

For few tokens this is a stream of weights of 0.5625 bytes each, and the danger is not the memory
but the instructions between it and the matrix unit: at 2.2 times the speed of bf16 weights there
are six issue slots for each weight and lane. So:

- **Operands are swapped**, ``acc[BN, BM] = W[BN, 256] · xᵀ[256, BM]``: weights are the 64 rows of
  Hopper's matrix unit, tokens its narrow side, and each weight is decoded once per tile of tokens.
- **Weights never go back to shared memory.** They are loaded into it as they lie, read by the
  thread that will feed them to the matrix unit, decoded in its registers (`e2m1_decode_kernel`,
  three instructions a weight with all that the loop needs) and handed over there.
- **A tile of a slab is contiguous in memory**: prepared weights are [K / 256, N, 128 bytes], their
  scales [K / 256, N, 16 bytes].
- **Work may be shared out evenly**, whatever tiles there are; sums of a tile meet in the same
  launch, in a fixed order (`shares_kernel`).
- With ``PDL`` a program may start while the kernel before it still runs, and asks for its first
  slabs of weights before it waits for x.

``y = (Σ · 2^7) · g + bias`` in fp32, rounded once; Σ holds the block scales.

What limits it (H200, 2026-11-21, Triton 3.6, 28672 x 4096, M = 16, cold L2): the loop with its
loads alone takes 17.4 µs, with the decoding and no product 19.9, with the product and no decoding
18.4, whole 25.1: decoding and product of one program do not overlap well, and two programs are all
that an SM has registers for. More and smaller programs, more stages, products of 16 rows by the
older instruction, and equal shares (1.7 tiles an SM) were all slower there.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.e2m1_decode_kernel import decode_slab, prefetch_slabs, whole_slab
from quantmux_triton.linear.epilogue_kernel import store_rows
from quantmux_triton.linear.shares_kernel import first_unit, sum_of_shares
from quantmux_triton.linear.x_tile_kernel import load_x, product

RUNTIME_INTEGERS = ("M", "N", "x_stride", "y_stride", "whole", "shares")


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
    JOINED: tl.constexpr,
    FP16: tl.constexpr,
    PLAIN: tl.constexpr,
):
    """Give the sum over the slabs [first, last), [BN, BM]."""
    w_ptrs = w_rows[:, None] + tl.arange(0, 64)[None, :]
    s_ptrs = s_rows[:, None] + tl.arange(0, 4)[None, :]
    quarter = tl.arange(0, 64)
    all_of_it = tl.arange(0, 256)
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for slab in range(first, last):
        words = tl.load(w_ptrs + slab * wide_n * 64, eviction_policy="evict_first")
        scales = tl.load(s_ptrs + slab * wide_n * 4, eviction_policy="evict_first")
        at = slab * 256
        w0, w1, w2, w3 = decode_slab(words, scales, BN, FP16, PLAIN)
        if JOINED:
            x = load_x(x_rows + (at + all_of_it)[None, :], at + all_of_it, is_row, K)
            acc = product(whole_slab(w0, w1, w2, w3, BN), x, acc, PLAIN)
        else:
            c0 = at + quarter
            x0 = load_x(x_rows + c0[None, :], c0, is_row, K)
            x1 = load_x(x_rows + (c0 + 64)[None, :], c0 + 64, is_row, K)
            x2 = load_x(x_rows + (c0 + 128)[None, :], c0 + 128, is_row, K)
            x3 = load_x(x_rows + (c0 + 192)[None, :], c0 + 192, is_row, K)
            acc = product(w0, x0, acc, PLAIN)
            acc = product(w1, x1, acc, PLAIN)
            acc = product(w2, x2, acc, PLAIN)
            acc = product(w3, x3, acc, PLAIN)
    return acc


@triton.jit
def _store(
    acc, alpha, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N, HAS_BIAS: tl.constexpr
):
    """Multiply sums [BN, BM] by what their operands lack, add the bias, round once, store."""
    total = tl.trans(acc) * 128.0 * alpha
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel).to(tl.float32)[None, :]
    store_rows(total, y_ptr, y_stride, rows, columns, M, N)


@triton.jit(
    do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=("bias_ptr", "y_ptr")
)
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
    whole,
    shares,
    K: tl.constexpr,
    X_IS_8: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
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
        w_ptr: int16 [ceil(K / 256), N, 64], see `e2m1_decode_kernel`.
        s_ptr: int32 [ceil(K / 256), N, 4], likewise.
        x_ptr: bf16 or fp16 [M, K], rows x_stride apart.
        g_ptr: fp32 [1], the weights' global multiplier.
        bias_ptr: [N], any float; not read without HAS_BIAS.
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
        HAS_BIAS: There is a bias.
        IS_SHARED: Not every tile has a program of its own.
        JOINED: One product of 256 columns instead of four of 64.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Slabs to ask for before waiting; only with PDL.
        FP16: x is fp16.
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
    alpha = tl.load(g_ptr)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    if X_IS_8:
        x_stride = x_stride // 8 * 8
    x_rows = x_ptr + rows[:, None].to(tl.int64) * x_stride
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
                w_ptr + wide * 64, s_ptr + wide * 4, x_rows, is_row, wide_n, first, last,
                K, BN, BM, JOINED, FP16, PLAIN,
            )  # fmt: skip
            acc, is_last = sum_of_shares(
                acc, partials, counters, share, shares, tile - whole, slabs, units, is_whole,
                BN, BM,
            )  # fmt: skip
            if is_last:
                _store(
                    acc, alpha, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N, HAS_BIAS
                )
    else:
        columns = program * BN + tl.arange(0, BN)
        channel = tl.minimum(columns, N - 1)
        wide = channel.to(tl.int64)
        acc = _sum_of_slabs(
            w_ptr + wide * 64, s_ptr + wide * 4, x_rows, is_row, wide_n, 0, slabs,
            K, BN, BM, JOINED, FP16, PLAIN,
        )  # fmt: skip
        _store(acc, alpha, bias_ptr, y_ptr, y_stride, rows, columns, channel, M, N, HAS_BIAS)
