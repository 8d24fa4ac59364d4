"""Device code of the FP8 product with scales inside the sum: 1 x 128 of x by 128 x 128 of W.

``y[m, n] = round(sum over g of s_a[m, g] · s_b[n / 128, g] · dot over 128 of K + bias[n])``.

Every 128 of K the tensor core's short sum is multiplied by its two scales and added to an fp32 sum
in registers. Both sums of a 128 x 256 tile would need 256 registers a thread, which nobody has:
the tile is multiplied in `PARTS` halves one after the other. Each half lies in one row of weight
blocks, so that its scale is one number a step; it is loaded as a vector of equal numbers, since a
scalar load has been seen to race with the loads of later steps where Triton specializes warps.

The forms by TMA and by pointers are those of `fp8_kernel`.
"""

import triton
import triton.language as tl

from quantmux_triton.linear.fp8_kernel import load_rows, store_pieces, tile_of



@triton.jit
def promote(part, scale, total):
    """Give part · scale + total, here and now.

    In plain arithmetic the compiler would put it off beyond the next product, where both short
    sums would need registers, and spill them (ptxas of Triton 3.6, sm_90a).
    """
    return tl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;",
        "=f,f,f,f",
        [part, tl.broadcast_to(scale[:, None], part.shape), total],
        dtype=tl.float32,
        is_pure=False,
        pack=1,
    )


@triton.jit(do_not_specialize=("m", "n", "k", "y_row", "sa_row", "sa_col"))
def block_gemm_tma(
    x,
    w,
    y,
    scale_a_ptr,
    scale_b_ptr,
    bias_ptr,
    m,
    n,
    k,
    y_row,
    sa_row,
    sa_col,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr,
    SUBTILES: tl.constexpr,
    GROUP_M: tl.constexpr,
    FLATTEN: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE_TMA: tl.constexpr,
    Y_DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply by TMA descriptors x [M, K] and w [N, K]; y is one too, or a pointer."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    tl.static_assert(WIDTH <= 128)
    steps = tl.cdiv(k, 128)
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    for tile in tl.range(
        tl.program_id(0),
        tiles,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=SPECIALIZE,
    ):
        tile_row, tile_col = tile_of(tile, m, n, BLOCK_M, BLOCK_N, GROUP_M)
        row = tile_row * BLOCK_M
        col = tile_col * BLOCK_N
        rows = row + tl.arange(0, BLOCK_M)
        a_at = scale_a_ptr + tl.minimum(rows, m - 1).to(tl.int64) * sa_row
        same = tl.zeros((BLOCK_M,), dtype=tl.int32)
        last = (n - 1) // 128
        b0_at = scale_b_ptr + tl.minimum(col // 128, last) * steps + same
        b1_at = scale_b_ptr + tl.minimum((col + WIDTH) // 128, last) * steps + same
        sum0 = tl.zeros((BLOCK_M, WIDTH), dtype=tl.float32)
        sum1 = sum0
        for step in tl.range(0, steps):
            scale_a = tl.load(a_at + step * sa_col)
            scale0 = scale_a * tl.load(b0_at + step)
            if PARTS == 2:
                scale1 = scale_a * tl.load(b1_at + step)
            a = x.load([row, step * 128])
            b = w.load([col, step * 128])
            part = tl.dot(a, b.T)
            sum0 = promote(part, scale0, sum0)
            if PARTS == 2:
                b = w.load([col + WIDTH, step * 128])
                part = tl.dot(a, b.T)
                sum1 = promote(part, scale1, sum1)
        store_pieces(
            y, sum0, row, col, m, n, y_row, sum0, scale_b_ptr, bias_ptr,
            WIDTH, SUBTILES, False, False, HAS_BIAS, STORE_TMA, Y_DTYPE,
        )  # fmt: skip
        if PARTS == 2:
            store_pieces(
                y, sum1, row, col + WIDTH, m, n, y_row, sum1, scale_b_ptr, bias_ptr,
                WIDTH, SUBTILES, False, False, HAS_BIAS, STORE_TMA, Y_DTYPE,
            )  # fmt: skip


@triton.jit(do_not_specialize=("m", "n", "k", "x_row", "y_row", "sa_row", "sa_col"))
def block_gemm_pointer(
    x_ptr,
    w_ptr,
    y_ptr,
    scale_a_ptr,
    scale_b_ptr,
    bias_ptr,
    m,
    n,
    k,
    x_row,
    y_row,
    sa_row,
    sa_col,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SUBTILES: tl.constexpr,
    GROUP_M: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    Y_DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply x [M, K], rows ``x_row`` apart, and w [N, K] contiguous, one tile a program."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    w_row = k
    if ALIGNED:
        # arithmetic that the compiler sees through, as it does not through a hint on an argument
        w_row = k // 16 * 16
        x_row = x_row // 16 * 16
    steps = tl.cdiv(k, 128)
    tile_row, tile_col = tile_of(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    row = tile_row * BLOCK_M
    col = tile_col * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    # what lies beyond the edge reads the last row again, and is not stored
    a_rows = tl.minimum(rows, m - 1)
    b_rows = tl.minimum(col + tl.arange(0, BLOCK_N), n - 1)
    a_at = scale_a_ptr + a_rows.to(tl.int64) * sa_row
    b_at = scale_b_ptr + b_rows // 128 * steps
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in tl.range(0, steps):
        scale_a = tl.load(a_at + step * sa_col)
        scale_b = tl.load(b_at + step)
        a = load_rows(x_ptr, a_rows, x_row, step * 128, k, 128, MASK_K)
        b = load_rows(w_ptr, b_rows, w_row, step * 128, k, 128, MASK_K)
        total = tl.fma(tl.dot(a, b.T), scale_a[:, None] * scale_b[None, :], total)
    store_pieces(
        y_ptr, total, row, col, m, n, y_row, total, scale_b_ptr, bias_ptr,
        BLOCK_N, SUBTILES, False, False, HAS_BIAS, False, Y_DTYPE,
    )  # fmt: skip
