"""y = x · Wᵀ for few rows of x, FP8 by FP8, scales of 1 × 128 of x and of 128 × 128 of W.

As `fp8_small_m_kernel`, whose page explains swapped operands, split K and the prefetch. Here each
128 products are summed by the tensor core from zero, multiplied by the two scales of their blocks
and added up in fp32, so that no more than 128 of them ever stand in its short accumulator. A tile
of BN ≤ 128 channels lies in one block row, so the product of scales differs by token only.

Each thread needs the scales of a quarter of the tokens. Loaded where they are needed, that is a
load for each in every thread, 32 in a loop of 64 tokens, and took longer than the weights. So the
scales of a whole step are loaded as one small matrix, a step ahead, and spread by shared memory.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.epilogue_kernel import prefetch_rows, store_rows, sum_of_splits

RUNTIME_INTEGERS = ("M", "N", "K", "x_stride", "y_stride", "sa_row", "sa_column", "splits")
SMALL_POINTERS = ("sb_ptr", "sa_ptr", "bias_ptr", "y_ptr")


@triton.jit
def _scales_of(sa_ptr, sa_row, sa_column, sb_ptrs, first, last, rows, M, BLOCKS: tl.constexpr):
    """Give both scales of BLOCKS blocks, each [BM, BLOCKS]; 0 from ``last`` on.

    They are multiplied where they are used: nothing may wait for these loads a step earlier.
    """
    block = first + tl.arange(0, BLOCKS)
    there = (rows < M)[:, None] & (block < last)[None, :]
    at = rows[:, None] * sa_row + block[None, :] * sa_column
    sa = tl.load(sa_ptr + at, mask=there, other=0.0)
    # the same addresses for every token, but a tensor all the same
    sb = tl.load(sb_ptrs[:, None] + block[None, :], mask=there, other=0.0)
    return sa, sb


@triton.jit
def _column(tile, AT: tl.constexpr, BM: tl.constexpr, BLOCKS: tl.constexpr):
    """Give column AT of a tile [BM, BLOCKS], BLOCKS 1, 2 or 4, as [BM]."""
    if BLOCKS == 1:
        found = tl.reshape(tile, [BM])
    elif BLOCKS == 2:
        left, right = tl.split(tile)
        found = left if AT == 0 else right
    else:
        even, odd = tl.split(tl.reshape(tile, [BM, 2, 2]))
        left, right = tl.split(even if AT % 2 == 0 else odd)
        found = left if AT < 2 else right
    return found


@triton.jit(do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=SMALL_POINTERS)
def fp8_block_small_m(
    w_ptr,
    x_ptr,
    sb_ptr,
    sa_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    K,
    x_stride,
    y_stride,
    sa_row,
    sa_column,
    splits,
    ROWS_ARE_16: tl.constexpr,
    EVEN_K: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BLOCKS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    IS_WIDE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or the sum over one split of K of it.

    Args as for `fp8_small_m`, but:
        sb_ptr: fp32 [ceil(N/128), ceil(K/128)], contiguous.
        sa_ptr: fp32, logically [M, ceil(K/128)].
        sa_row: Elements from the scale of a token to that of the next.
        sa_column: Elements from the scale of a block to that of the next.
        BN: Channels of a tile, 64 or 128: never across two block rows.
        EVEN_K: K is a multiple of 128 · BLOCKS.
        BLOCKS: Blocks of 128 that are loaded and multiplied in one step.
    """
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BN)
    tile_n = pid % tiles_n
    rest = pid // tiles_n
    split = rest % splits
    tile_m = rest // splits

    if ROWS_ARE_16:
        # a hint on an argument would be lost
        x_stride = x_stride // 16 * 16
        K = K // 16 * 16
    blocks = tl.cdiv(K, 128)
    steps = tl.cdiv(blocks, BLOCKS)
    first = split * steps // splits
    last = (split + 1) * steps // splits
    last_block = tl.minimum(last * BLOCKS, blocks)

    columns = tile_n * BN + tl.arange(0, BN)
    channel = tl.minimum(columns, N - 1)
    row_ptrs = w_ptr + channel.to(tl.int64) * K
    if PREFETCH > 0:
        ahead = tl.minimum(last, first + PREFETCH)
        prefetch_rows(row_ptrs, first * BLOCKS * 128, tl.minimum(ahead * BLOCKS * 128, K))
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    k = tl.arange(0, 128)
    w_ptrs = row_ptrs[:, None] + k[None, :]
    x_ptrs = x_ptr + rows[:, None].to(tl.int64) * x_stride + k[None, :]
    sb_ptrs = sb_ptr + (tile_n * BN // 128) * blocks + rows * 0

    acc = tl.zeros([BN, BM], dtype=tl.float32)
    sa, sb = _scales_of(
        sa_ptr, sa_row, sa_column, sb_ptrs, first * BLOCKS, last_block, rows, M, BLOCKS
    )
    for step in tl.range(first, last):
        sa_later, sb_later = _scales_of(
            sa_ptr, sa_row, sa_column, sb_ptrs, (step + 1) * BLOCKS, last_block, rows, M, BLOCKS
        )
        for i in tl.static_range(BLOCKS):
            block = step * BLOCKS + i
            at = block * 128
            if EVEN_K:
                w = tl.load(w_ptrs + at, eviction_policy="evict_first")
                x = tl.load(
                    x_ptrs + at, mask=is_row[:, None], other=0.0, eviction_policy="evict_last"
                )
            else:
                is_k = (at + k < K)[None, :]
                w = tl.load(w_ptrs + at, mask=is_k, other=0.0, eviction_policy="evict_first")
                x = tl.load(
                    x_ptrs + at,
                    mask=is_row[:, None] & is_k,
                    other=0.0,
                    eviction_policy="evict_last",
                )
            if IS_WIDE:
                part = tl.dot(w, tl.trans(x), input_precision="ieee")
            else:
                part = tl.dot(w, tl.trans(x))
            acc += part * _column(sa * sb, i, BM, BLOCKS)[None, :]
        sa = sa_later
        sb = sb_later

    total = tl.trans(acc)
    is_last = True
    if IS_SPLIT:
        tile = tile_m * tiles_n + tile_n
        total, is_last = sum_of_splits(
            total, partial_ptr, counter_ptr, tile, split, splits, BM, BN, AT_ONCE
        )
    if is_last:
        if HAS_BIAS:
            total += bias[None, :]
        store_rows(total, y_ptr, y_stride, rows, columns, M, N)
