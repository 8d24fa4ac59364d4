"""Device code of the products whose scales stand outside the sum: FP8 and INT8, one scale a row.

``y[m, n] = round(sum(m, n) · s_a[m] · s_b[n] + bias[n])``, x [M, K] and W [N, K] of one byte an
element, K fastest in both, which is the only order that Hopper's 8-bit tensor cores read.

Two forms of one product:

* `scaled_gemm_tma` is persistent: one program a multiprocessor walks over output tiles, loads come
  by TMA (which fills what lies beyond M, N and K with zeros, so nothing is masked), and the loop
  over tiles and the loop over K are flattened into one, so that the loads of the next tile are in
  flight while this one is being stored. Neighbouring programs share rows and columns of tiles
  (groups of `GROUP_M` tile rows), which keeps the traffic in the L2 cache.
* `scaled_gemm_pointer` has one program a tile and plain pointers: for GPUs without TMA, for rows
  that are no multiple of 16 bytes, and for the interpreter.

The sum: `PROMOTE` false chains all of K through the tensor core's accumulator (on Hopper 14 bits of
mantissa for FP8: "fast"); true adds each 128 products to an fp32 sum in registers ("exact"). A tile
of 128 x 256 with promotion would need 256 registers a thread for both sums; `PARTS` = 2 multiplies
its halves one after the other, so that the short sum needs half.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of(tile, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Give (tile row, tile column): down GROUP_M rows first, then to the next column."""
    rows = tl.cdiv(m, BLOCK_M)
    per_group = GROUP_M * tl.cdiv(n, BLOCK_N)
    group = tile // per_group
    first = group * GROUP_M
    height = tl.minimum(rows - first, GROUP_M)
    inside = tile % per_group
    return first + inside % height, inside // height


@triton.jit
def row_scale(ptr, offsets, size, PER_ROW: tl.constexpr):
    """Give the scales at ``offsets``, 0 beyond ``size``; the one scale of a tensor repeated."""
    if PER_ROW:
        return tl.load(ptr + offsets, mask=offsets < size, other=0.0)
    return tl.load(ptr + tl.zeros_like(offsets))


@triton.jit
def store_tile(
    y,
    acc,
    row,
    col,
    m,
    n,
    y_row,
    scale_a,
    scale_b_ptr,
    bias_ptr,
    WIDTH: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    SCALED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE_TMA: tl.constexpr,
    Y_DTYPE: tl.constexpr,
):
    """Scale a piece [rows, WIDTH] of y that begins at (row, col), add the bias, round, store."""
    cols = col + tl.arange(0, WIDTH)
    out = acc.to(tl.float32)
    if SCALED:
        scale_b = row_scale(scale_b_ptr, cols, n, PER_CHANNEL)
        out = out * scale_a[:, None] * scale_b[None, :]
    if HAS_BIAS:
        out += tl.load(bias_ptr + cols, mask=cols < n, other=0.0)[None, :]
    out = out.to(Y_DTYPE)
    if STORE_TMA:
        y.store([row, col], out)
    else:
        rows = row + tl.arange(0, acc.shape[0])
        at = rows.to(tl.int64)[:, None] * y_row + cols[None, :]
        tl.store(y + at, out, mask=(rows < m)[:, None] & (cols < n)[None, :])


@triton.jit
def store_pieces(
    y,
    acc,
    row,
    col,
    m,
    n,
    y_row,
    scale_a,
    scale_b_ptr,
    bias_ptr,
    WIDTH: tl.constexpr,
    SUBTILES: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    SCALED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE_TMA: tl.constexpr,
    Y_DTYPE: tl.constexpr,
):
    """Store [rows, WIDTH] whole or in two halves, which need half the shared memory."""
    if SUBTILES == 1:
        store_tile(
            y, acc, row, col, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
            WIDTH, PER_CHANNEL, SCALED, HAS_BIAS, STORE_TMA, Y_DTYPE,
        )  # fmt: skip
    else:
        HALF: tl.constexpr = WIDTH // 2
        halves = tl.permute(tl.reshape(acc, (acc.shape[0], 2, HALF)), (0, 2, 1))
        left, right = tl.split(halves)
        store_tile(
            y, left, row, col, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
            HALF, PER_CHANNEL, SCALED, HAS_BIAS, STORE_TMA, Y_DTYPE,
        )  # fmt: skip
        store_tile(
            y, right, row, col + HALF, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
            HALF, PER_CHANNEL, SCALED, HAS_BIAS, STORE_TMA, Y_DTYPE,
        )  # fmt: skip


@triton.jit(do_not_specialize=("m", "n", "k", "y_row"))
def scaled_gemm_tma(
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
    SUBTILES: tl.constexpr,
    GROUP_M: tl.constexpr,
    FLATTEN: tl.constexpr,
    SPECIALIZE: tl.constexpr,
    PROMOTE: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE_TMA: tl.constexpr,
    SUM_DTYPE: tl.constexpr,
    Y_DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Multiply by TMA descriptors x [M, K] and w [N, K]; y is one too, or a pointer."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    steps = tl.cdiv(k, BLOCK_K)
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
        sum0 = tl.zeros((BLOCK_M, WIDTH), dtype=SUM_DTYPE)
        sum1 = sum0
        for step in tl.range(0, steps):
            a = x.load([row, step * BLOCK_K])
            b = w.load([col, step * BLOCK_K])
            if PROMOTE:
                sum0 = tl.fma(tl.dot(a, b.T), 1.0, sum0)
            else:
                sum0 = tl.dot(a, b.T, sum0, out_dtype=SUM_DTYPE)
            if PARTS == 2:
                b = w.load([col + WIDTH, step * BLOCK_K])
                if PROMOTE:
                    sum1 = tl.fma(tl.dot(a, b.T), 1.0, sum1)
                else:
                    sum1 = tl.dot(a, b.T, sum1, out_dtype=SUM_DTYPE)
        scale_a = row_scale(scale_a_ptr, row + tl.arange(0, BLOCK_M), m, PER_TOKEN)
        store_pieces(
            y, sum0, row, col, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
            WIDTH, SUBTILES, PER_CHANNEL, True, HAS_BIAS, STORE_TMA, Y_DTYPE,
        )  # fmt: skip
        if PARTS == 2:
            store_pieces(
                y, sum1, row, col + WIDTH, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
                WIDTH, SUBTILES, PER_CHANNEL, True, HAS_BIAS, STORE_TMA, Y_DTYPE,
            )  # fmt: skip


@triton.jit
def load_rows(ptr, rows, row_stride, start, k, BLOCK_K: tl.constexpr, MASK_K: tl.constexpr):
    """Give [rows, BLOCK_K] of a matrix whose rows lie ``row_stride`` apart; zeros beyond k."""
    ks = start + tl.arange(0, BLOCK_K)
    at = rows.to(tl.int64)[:, None] * row_stride + ks[None, :]
    if MASK_K:
        return tl.load(ptr + at, mask=(ks < k)[None, :], other=0.0)
    return tl.load(ptr + at)


@triton.jit(do_not_specialize=("m", "n", "k", "x_row", "y_row"))
def scaled_gemm_pointer(
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SUBTILES: tl.constexpr,
    GROUP_M: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASK_K: tl.constexpr,
    PROMOTE: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SUM_DTYPE: tl.constexpr,
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
    tile_row, tile_col = tile_of(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    row = tile_row * BLOCK_M
    col = tile_col * BLOCK_N
    rows = row + tl.arange(0, BLOCK_M)
    # what lies beyond the edge reads the last row again, and is not stored
    a_rows = tl.minimum(rows, m - 1)
    b_rows = tl.minimum(col + tl.arange(0, BLOCK_N), n - 1)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=SUM_DTYPE)
    for start in tl.range(0, k, BLOCK_K):
        a = load_rows(x_ptr, a_rows, x_row, start, k, BLOCK_K, MASK_K)
        b = load_rows(w_ptr, b_rows, w_row, start, k, BLOCK_K, MASK_K)
        if PROMOTE:
            total = tl.fma(tl.dot(a, b.T), 1.0, total)
        else:
            total = tl.dot(a, b.T, total, out_dtype=SUM_DTYPE)
    scale_a = row_scale(scale_a_ptr, rows, m, PER_TOKEN)
    store_pieces(
        y_ptr, total, row, col, m, n, y_row, scale_a, scale_b_ptr, bias_ptr,
        BLOCK_N, SUBTILES, PER_CHANNEL, True, HAS_BIAS, False, Y_DTYPE,
    )  # fmt: skip
