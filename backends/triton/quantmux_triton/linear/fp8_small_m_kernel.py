"""y = x · Wᵀ for few rows of x, FP8 by FP8, one scale a tensor or one a token and a channel.

For few tokens a linear is a stream of weights. What this function does about it:

- **Operands are swapped.** Hopper's matrix unit multiplies 64 rows at a time; 16 tokens would leave
  three quarters of it idle, and each weight would pass through it for nothing. So the weights are
  the rows, ``acc[BN, BM] = W[BN, BK] · xᵀ[BK, BM]``, and the tokens its narrow side.
- **K is split** so that every SM streams weights: 576 × 7168 has 9 tiles of 64 rows, for 132 SMs.
  The sums are brought together in the same launch (`epilogue_kernel.sum_of_splits`).
- **Loads run ahead** by ``num_stages`` tiles; weights are read once and leave the cache first, x is
  read by every tile of N and leaves it last.
- With ``PDL`` a program may start while the kernel before it still runs. The weights do not depend
  on that one, so they are asked into L2 first; only then the program waits for the kernel before.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.epilogue_kernel import prefetch_rows, store_rows, sum_of_splits

RUNTIME_INTEGERS = ("M", "N", "K", "x_stride", "y_stride", "splits")
SMALL_POINTERS = ("sb_ptr", "sa_ptr", "bias_ptr", "y_ptr")


@triton.jit(do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=SMALL_POINTERS)
def fp8_small_m(
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
    splits,
    ROWS_ARE_16: tl.constexpr,
    EVEN_K: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    BY_CHANNEL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EXACT: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    PDL: tl.constexpr,
    PREFETCH: tl.constexpr,
    IS_WIDE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Give one tile [BM, BN] of y, or the sum over one split of K of it.

    Args:
        w_ptr: e4m3 [N, K], contiguous.
        x_ptr: e4m3 [M, K], rows x_stride apart.
        sb_ptr: fp32 [N] or [1].
        sa_ptr: fp32 [M] or [1].
        bias_ptr: [N], any float; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: See `sum_of_splits`; not touched without IS_SPLIT.
        counter_ptr: Likewise.
        M: Tokens.
        N: Channels.
        K: Products of a sum.
        x_stride: Elements from a row of x to the next.
        y_stride: Elements from a row of y to the next.
        splits: Parts that K is cut into, whole tiles of BK each.
        ROWS_ARE_16: K and x_stride are multiples of 16.
        EVEN_K: K is a multiple of BK.
        BN: Channels of a tile.
        BM: Tokens of a tile.
        BK: Products between two loads.
        BY_TOKEN: sa has M scales, not one.
        BY_CHANNEL: sb has N scales, not one.
        HAS_BIAS: There is a bias.
        EXACT: Add up in fp32 after every BK products, which then are 128.
        IS_SPLIT: splits > 1.
        PDL: Launched with programmatic dependent launch.
        PREFETCH: Steps whose weights are asked for before waiting; only with PDL.
        IS_WIDE: w and x are fp32 with the codes' values: the interpreter reads no NaN in FP8.
        AT_ONCE: See `sum_of_splits`.
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
    steps = tl.cdiv(K, BK)
    first = split * steps // splits
    last = (split + 1) * steps // splits

    columns = tile_n * BN + tl.arange(0, BN)
    # rows beyond N read the last one; nothing of them is stored
    channel = tl.minimum(columns, N - 1)
    row_ptrs = w_ptr + channel.to(tl.int64) * K
    if PREFETCH > 0:
        ahead = tl.minimum(last, first + PREFETCH)
        prefetch_rows(row_ptrs, first * BK, tl.minimum(ahead * BK, K))
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel).to(tl.float32)
    # one scale of all is read as a row of it
    sb = tl.load(sb_ptr + channel * (1 if BY_CHANNEL else 0))
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    rows = tile_m * BM + tl.arange(0, BM)
    is_row = rows < M
    sa = tl.load(sa_ptr + rows * (1 if BY_TOKEN else 0), mask=is_row, other=0.0)

    k = tl.arange(0, BK)
    w_ptrs = row_ptrs[:, None] + k[None, :]
    x_ptrs = x_ptr + rows[:, None].to(tl.int64) * x_stride + k[None, :]
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    for step in tl.range(first, last):
        at = step * BK
        if EVEN_K:
            w = tl.load(w_ptrs + at, eviction_policy="evict_first")
            x = tl.load(x_ptrs + at, mask=is_row[:, None], other=0.0, eviction_policy="evict_last")
        else:
            is_k = (at + k < K)[None, :]
            w = tl.load(w_ptrs + at, mask=is_k, other=0.0, eviction_policy="evict_first")
            x = tl.load(
                x_ptrs + at, mask=is_row[:, None] & is_k, other=0.0, eviction_policy="evict_last"
            )
        if IS_WIDE:
            acc += tl.dot(w, tl.trans(x), input_precision="ieee")
        elif EXACT:
            # not by max_num_imprecise_acc: Triton 3.6 adds registers that wgmma still writes
            acc += tl.dot(w, tl.trans(x))
        else:
            acc = tl.dot(w, tl.trans(x), acc)

    total = tl.trans(acc)
    is_last = True
    if IS_SPLIT:
        tile = tile_m * tiles_n + tile_n
        total, is_last = sum_of_splits(
            total, partial_ptr, counter_ptr, tile, split, splits, BM, BN, AT_ONCE
        )
    if is_last:
        total = total * sa[:, None] * sb[None, :]
        if HAS_BIAS:
            total += bias[None, :]
        store_rows(total, y_ptr, y_stride, rows, columns, M, N)
