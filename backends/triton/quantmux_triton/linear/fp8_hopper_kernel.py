"""Device code of the FP8 products on Hopper, its warps divided between loading and summing.

In the form that Triton's own compiler makes (`fp8_kernel`, `fp8_block_kernel`), all warps wait for
loads, multiply and promote together, so the tensor cores idle during every promotion. Here one warp
only loads, and two groups of four warps each own 64 rows of an output tile of 128. They share the
stages in shared memory, but wait for each other nowhere: while one promotes its short sum, the
other's product keeps the tensor cores busy. It is written in Gluon, Triton's language of explicit
layouts and barriers, since `tl.range(..., warp_specialize=True)` changes nothing for sm_90 in
Triton 3.6.

A stage holds 128 of K: 128 rows of x, and the rows of W of one or two column parts of the tile
(`WIDTH0` + `WIDTH1`, whose sum need be no power of two: 192 divides 2112). `full` of a stage
completes when its bytes have arrived, `empty` when both groups have read them.

`MODE` says how the tensor core's short sum is treated:

* 0, "fast": all of K is chained through it, one product behind the other, never waiting for the
  latest;
* 1, "exact": each 128 products are added to an fp32 sum;
* 2, block scales: each 128 products are multiplied by s_a[m, g] · s_b[n / 128, g] first. A part
  lies in one row of weight blocks, so s_b is one number; scales are loaded a step ahead.

With two parts, the first is promoted while the second is multiplied, as long as registers hold both
short sums; those of 256 columns do not fit, and are promoted one after the other.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# what Triton 3.9 calls by another name than 3.6
_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
_copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global


@gluon.jit
def _tile_of(tile, m, n, BLOCK_N: gl.constexpr, GROUP_M: gl.constexpr):
    """Give the first row and column: down GROUP_M tiles first, then to the next column."""
    rows = gl.cdiv(m, 128)
    per_group = GROUP_M * gl.cdiv(n, BLOCK_N)
    group = tile // per_group
    first = group * GROUP_M
    height = gl.minimum(rows - first, GROUP_M)
    inside = tile % per_group
    return (first + inside % height) * 128, inside // height * BLOCK_N


@gluon.jit
def _columns(col, WIDTH0: gl.constexpr, WIDTH1: gl.constexpr):
    """Give the first columns of both parts of a tile.

    In every second tile of 128 + 64 columns the narrow part comes first, so that each part lies in
    one row of weight blocks.
    """
    first = col
    second = col + WIDTH0
    if WIDTH1 > 0 and WIDTH1 != WIDTH0:
        is_odd = col // (WIDTH0 + WIDTH1) % 2
        first = col + is_odd * WIDTH1
        second = col + (1 - is_odd) * WIDTH0
    return first, second


@gluon.jit
def _promote(part, scale, total):
    """Give part · scale + total, here and now.

    In plain arithmetic the compiler would put it off beyond the next product, where both short
    sums would need registers: 150 of them were spilled (Triton 3.6, sm_90a).
    """
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;",
        "=f,f,f,f",
        [part, gl.expand_dims(scale, 1).broadcast_to(part.shape), total],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _release(empty, is_due=True):
    """Say that this group of four warps has read a stage."""
    _barrier()  # every one of its warps has
    mbarrier.arrive(empty, count=1, pred=is_due)


@gluon.jit
def _load(
    x, w0, w1, xs, ws0, ws1, full, empty, m, n, k,
    STAGES: gl.constexpr, WIDTH0: gl.constexpr, WIDTH1: gl.constexpr, GROUP_M: gl.constexpr,
):  # fmt: skip
    """Keep the stages filled, tile after tile."""
    BYTES: gl.constexpr = (128 + WIDTH0 + WIDTH1) * 128
    BLOCK_N: gl.constexpr = WIDTH0 + WIDTH1
    steps = gl.cdiv(k, 128)
    tiles = gl.cdiv(m, 128) * gl.cdiv(n, BLOCK_N)
    count = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        row, col = _tile_of(tile, m, n, BLOCK_N, GROUP_M)
        col0, col1 = _columns(col, WIDTH0, WIDTH1)
        for step in range(steps):
            stage = count % STAGES
            mbarrier.wait(empty.index(stage), ((count // STAGES) & 1) ^ 1)
            done = full.index(stage)
            mbarrier.expect(done, BYTES)
            at = step * 128
            _copy_in(x, [row, at], done, xs.index(stage * 2))
            _copy_in(x, [row + 64, at], done, xs.index(stage * 2 + 1))
            _copy_in(w0, [col0, at], done, ws0.index(stage))
            if WIDTH1 > 0:
                _copy_in(w1, [col1, at], done, ws1.index(stage))
            count += 1


@gluon.jit
def _scale_of(ptr, at, size, IS_VECTOR: gl.constexpr):
    """Give the scales at ``at``, or the one there is; beyond ``size`` the last again."""
    if IS_VECTOR:
        return gl.load(ptr + gl.minimum(at, size - 1))
    else:  # noqa: RET505 - both types of one function are compiled otherwise
        return gl.load(ptr)


@gluon.jit
def _halves(x):
    """Give the left and the right half of the columns."""
    HALF: gl.constexpr = x.shape[1] // 2
    return gl.split(gl.permute(gl.reshape(x, (x.shape[0], 2, HALF)), (0, 2, 1)))


@gluon.jit
def _store_box(
    y, ys, out, row, col, BOXES: gl.constexpr, AT: gl.constexpr, NUMBER: gl.constexpr
):  # fmt: skip
    """Store [64, 64] by way of one of the boxes in shared memory, which take turns."""
    box = ys.index(AT + NUMBER % BOXES)
    tma.store_wait(BOXES - 1)  # until what was in it has been read
    _barrier()
    box.store(out)
    fence_async_shared()
    _barrier()
    _copy_out(y, [row, col], box)


@gluon.jit
def _store(
    y, ys, acc, row, col, m, n, y_row, scale_a, scale_b, bias_ptr,
    SCALED: gl.constexpr, PER_TOKEN: gl.constexpr, PER_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr, STORE_TMA: gl.constexpr, Y_DTYPE: gl.constexpr, ACC: gl.constexpr,
    BOXES: gl.constexpr, AT: gl.constexpr, PASSED: gl.constexpr,
):  # fmt: skip
    """Scale 64 rows of one part, add the bias, round, store.

    The boxes in shared memory from AT on, BOXES of them, take turns; PASSED were written for this
    tile.
    """
    WIDTH: gl.constexpr = acc.shape[1]
    cols = col + gl.arange(0, WIDTH, gl.SliceLayout(0, ACC))
    out = acc.to(gl.float32)
    if SCALED:
        out = out * (gl.expand_dims(scale_a, 1) if PER_TOKEN else scale_a)
        out = out * (gl.expand_dims(scale_b, 0) if PER_CHANNEL else scale_b)
    if HAS_BIAS:
        out += gl.expand_dims(gl.load(bias_ptr + gl.minimum(cols, n - 1)), 0)
    out = out.to(Y_DTYPE)
    if STORE_TMA:
        if WIDTH == 64:
            _store_box(y, ys, out, row, col, BOXES, AT, PASSED)
        elif WIDTH == 128:
            left, right = _halves(out)
            _store_box(y, ys, left, row, col, BOXES, AT, PASSED)
            _store_box(y, ys, right, row, col + 64, BOXES, AT, PASSED + 1)
        else:
            left, right = _halves(out)
            first, second = _halves(left)
            third, fourth = _halves(right)
            _store_box(y, ys, first, row, col, BOXES, AT, PASSED)
            _store_box(y, ys, second, row, col + 64, BOXES, AT, PASSED + 1)
            _store_box(y, ys, third, row, col + 128, BOXES, AT, PASSED + 2)
            _store_box(y, ys, fourth, row, col + 192, BOXES, AT, PASSED + 3)
    else:
        rows = row + gl.arange(0, 64, gl.SliceLayout(1, ACC))
        at = gl.expand_dims(rows.to(gl.int64), 1) * y_row + gl.expand_dims(cols, 0)
        mask = gl.expand_dims(rows < m, 1) & gl.expand_dims(cols < n, 0)
        gl.store(y + at, out, mask=mask)


@gluon.jit
def _sum(
    WHICH: gl.constexpr, y, xs, ws0, ws1, ys, full, empty,
    scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, y_row, sa_row, sa_col,
    STAGES: gl.constexpr, WIDTH0: gl.constexpr, WIDTH1: gl.constexpr, GROUP_M: gl.constexpr,
    MODE: gl.constexpr, PER_TOKEN: gl.constexpr, PER_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr, STORE_TMA: gl.constexpr, SUM_BITS: gl.constexpr,
    Y_BITS: gl.constexpr, BOXES: gl.constexpr,
):  # fmt: skip
    """Multiply, promote and store 64 rows of every tile."""
    PART1: gl.constexpr = WIDTH1 if WIDTH1 > 0 else 64
    ACC0: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDTH0, 32]
    )
    ACC1: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, PART1, 32]
    )
    BLOCK_N: gl.constexpr = WIDTH0 + WIDTH1
    TOGETHER: gl.constexpr = WIDTH1 > 0 and BLOCK_N < 256
    SUM_DTYPE: gl.constexpr = gl.int32 if SUM_BITS == 0 else gl.float32
    Y_DTYPE: gl.constexpr = (
        gl.float32 if Y_BITS == 32 else (gl.bfloat16 if Y_BITS == 16 else gl.float16)
    )
    steps = gl.cdiv(k, 128)
    tiles = gl.cdiv(m, 128) * gl.cdiv(n, BLOCK_N)
    last = (n - 1) // 128
    zero0 = gl.zeros([64, WIDTH0], SUM_DTYPE, ACC0)
    zero1 = gl.zeros([64, PART1], SUM_DTYPE, ACC1)
    part0 = zero0  # what it held does not count, but its registers are used again
    part1 = zero1
    count = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        row, col = _tile_of(tile, m, n, BLOCK_N, GROUP_M)
        col0, col1 = _columns(col, WIDTH0, WIDTH1)
        row += WHICH * 64
        sum0 = zero0
        sum1 = zero1
        if MODE == 2:
            rows = gl.minimum(row + gl.arange(0, 64, gl.SliceLayout(1, ACC0)), m - 1)
            a_at = scale_a_ptr + rows.to(gl.int64) * sa_row
            b0_at = scale_b_ptr + gl.minimum(col0 // 128, last) * steps
            b1_at = scale_b_ptr + gl.minimum(col1 // 128, last) * steps
            scale_a = gl.load(a_at)
            scale0 = gl.load(b0_at)
            scale1 = gl.load(b1_at)
        for step in range(steps):
            stage = count % STAGES
            mbarrier.wait(full.index(stage), (count // STAGES) & 1)
            a = xs.index(stage * 2 + WHICH)
            b0 = ws0.index(stage).permute((1, 0))
            if MODE == 0:
                sum0 = warpgroup_mma(a, b0, sum0, is_async=True)
                if WIDTH1 > 0:
                    b1 = ws1.index(stage).permute((1, 0))
                    sum1 = warpgroup_mma(a, b1, sum1, is_async=True)
                    sum0, sum1 = warpgroup_mma_wait(2, deps=[sum0, sum1])
                else:
                    sum0 = warpgroup_mma_wait(1, deps=[sum0])
                # the products of the step before have been read
                _release(empty.index((count + STAGES - 1) % STAGES), step > 0)
            else:
                part0 = warpgroup_mma(a, b0, part0, use_acc=False, is_async=True)
                if TOGETHER:
                    b1 = ws1.index(stage).permute((1, 0))
                    part1 = warpgroup_mma(a, b1, part1, use_acc=False, is_async=True)
                if MODE == 2:
                    ahead = gl.minimum(step + 1, steps - 1)
                    by0 = scale_a * scale0
                    by1 = gl.convert_layout(scale_a * scale1, gl.SliceLayout(1, ACC1))
                    scale_a = gl.load(a_at + ahead * sa_col)
                    scale0 = gl.load(b0_at + ahead)
                    scale1 = gl.load(b1_at + ahead)
                else:
                    by0 = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, ACC0))
                    by1 = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, ACC1))
                if TOGETHER:
                    part0, part1 = warpgroup_mma_wait(1, deps=[part0, part1])
                    sum0 = _promote(part0, by0, sum0)
                    part1 = warpgroup_mma_wait(0, deps=[part1])
                    _release(empty.index(stage))
                    sum1 = _promote(part1, by1, sum1)
                elif WIDTH1 > 0:
                    part0 = warpgroup_mma_wait(0, deps=[part0])
                    sum0 = _promote(part0, by0, sum0)
                    b1 = ws1.index(stage).permute((1, 0))
                    part0 = warpgroup_mma(a, b1, part0, use_acc=False, is_async=True)
                    part0 = warpgroup_mma_wait(0, deps=[part0])
                    _release(empty.index(stage))
                    sum1 = _promote(part0, by1, sum1)
                else:
                    part0 = warpgroup_mma_wait(0, deps=[part0])
                    _release(empty.index(stage))
                    sum0 = _promote(part0, by0, sum0)
            count += 1
        at_rows = row + gl.arange(0, 64, gl.SliceLayout(1, ACC0))
        at_cols0 = col0 + gl.arange(0, WIDTH0, gl.SliceLayout(0, ACC0))
        at_cols1 = col1 + gl.arange(0, PART1, gl.SliceLayout(0, ACC1))
        if MODE != 2:
            # under way while the last products are
            by_row = _scale_of(scale_a_ptr, at_rows, m, PER_TOKEN)
            by_col0 = _scale_of(scale_b_ptr, at_cols0, n, PER_CHANNEL)
        else:
            by_row = 0.0
            by_col0 = 0.0
        if MODE == 0:
            if WIDTH1 > 0:
                sum0, sum1 = warpgroup_mma_wait(0, deps=[sum0, sum1])
            else:
                sum0 = warpgroup_mma_wait(0, deps=[sum0])
            _release(empty.index((count + STAGES - 1) % STAGES))
        _store(
            y, ys, sum0, row, col0, m, n, y_row, by_row, by_col0, bias_ptr,
            MODE != 2, PER_TOKEN, PER_CHANNEL, HAS_BIAS, STORE_TMA, Y_DTYPE, ACC0,
            BOXES, WHICH * BOXES, 0,
        )  # fmt: skip
        if WIDTH1 > 0:
            if MODE != 2:
                by_col1 = _scale_of(scale_b_ptr, at_cols1, n, PER_CHANNEL)
                if PER_TOKEN:
                    by_row = gl.convert_layout(by_row, gl.SliceLayout(1, ACC1))
            else:
                by_col1 = 0.0
            _store(
                y, ys, sum1, row, col1, m, n, y_row, by_row, by_col1, bias_ptr,
                MODE != 2, PER_TOKEN, PER_CHANNEL, HAS_BIAS, STORE_TMA, Y_DTYPE, ACC1,
                BOXES, WHICH * BOXES, WIDTH0 // 64,
            )  # fmt: skip
    if STORE_TMA:
        tma.store_wait(0)


@gluon.jit
def _sum_upper(
    y, xs, ws0, ws1, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
    m, n, k, y_row, sa_row, sa_col,
    STAGES: gl.constexpr, WIDTH0: gl.constexpr, WIDTH1: gl.constexpr, GROUP_M: gl.constexpr,
    MODE: gl.constexpr, PER_TOKEN: gl.constexpr, PER_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr, STORE_TMA: gl.constexpr, SUM_BITS: gl.constexpr,
    Y_BITS: gl.constexpr, BOXES: gl.constexpr,
):  # fmt: skip
    _sum(
        0, y, xs, ws0, ws1, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
        m, n, k, y_row, sa_row, sa_col, STAGES, WIDTH0, WIDTH1, GROUP_M, MODE, PER_TOKEN,
        PER_CHANNEL, HAS_BIAS, STORE_TMA, SUM_BITS, Y_BITS, BOXES,
    )  # fmt: skip


@gluon.jit
def _sum_lower(
    y, xs, ws0, ws1, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
    m, n, k, y_row, sa_row, sa_col,
    STAGES: gl.constexpr, WIDTH0: gl.constexpr, WIDTH1: gl.constexpr, GROUP_M: gl.constexpr,
    MODE: gl.constexpr, PER_TOKEN: gl.constexpr, PER_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr, STORE_TMA: gl.constexpr, SUM_BITS: gl.constexpr,
    Y_BITS: gl.constexpr, BOXES: gl.constexpr,
):  # fmt: skip
    _sum(
        1, y, xs, ws0, ws1, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
        m, n, k, y_row, sa_row, sa_col, STAGES, WIDTH0, WIDTH1, GROUP_M, MODE, PER_TOKEN,
        PER_CHANNEL, HAS_BIAS, STORE_TMA, SUM_BITS, Y_BITS, BOXES,
    )  # fmt: skip


@gluon.jit(do_not_specialize=("m", "n", "k", "y_row", "sa_row", "sa_col"))
def gemm_hopper(
    x,
    w0,
    w1,
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
    STAGES: gl.constexpr,
    WIDTH0: gl.constexpr,
    WIDTH1: gl.constexpr,
    GROUP_M: gl.constexpr,
    MODE: gl.constexpr,
    PER_TOKEN: gl.constexpr,
    PER_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    STORE_TMA: gl.constexpr,
    SUM_BITS: gl.constexpr,
    Y_BITS: gl.constexpr,
    BOXES: gl.constexpr,
    Y_LAYOUT: gl.constexpr,
    PDL: gl.constexpr,
):
    """Multiply by TMA descriptors x [M, K] and w [N, K], boxes of both parts; y likewise."""
    if PDL:
        gl.inline_asm_elementwise(
            "griddepcontrol.wait; griddepcontrol.launch_dependents; mov.u32 $0, 0;",
            "=r",
            [],
            dtype=gl.int32,
            is_pure=False,
            pack=1,
        )
    Y_DTYPE: gl.constexpr = (
        gl.float32 if Y_BITS == 32 else (gl.bfloat16 if Y_BITS == 16 else gl.float16)
    )
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * 2, 64, 128], x.layout)
    ws0 = gl.allocate_shared_memory(x.dtype, [STAGES, WIDTH0, 128], w0.layout)
    if WIDTH1 > 0:
        ws1 = gl.allocate_shared_memory(x.dtype, [STAGES, WIDTH1, 128], w1.layout)
    else:
        ws1 = ws0
    ys = gl.allocate_shared_memory(Y_DTYPE, [2 * BOXES, 64, 64], Y_LAYOUT)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    # the tuples are written out here: a variable would make numbers of the compile-time values
    gl.warp_specialize(
        [
            (
                _sum_upper,
                (
                    y, xs, ws0, ws1, ys, full, empty,
                    scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, y_row, sa_row, sa_col,
                    STAGES, WIDTH0, WIDTH1, GROUP_M, MODE, PER_TOKEN, PER_CHANNEL, HAS_BIAS,
                    STORE_TMA, SUM_BITS, Y_BITS, BOXES,
                ),
            ),
            (
                _sum_lower,
                (
                    y, xs, ws0, ws1, ys, full, empty,
                    scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, y_row, sa_row, sa_col,
                    STAGES, WIDTH0, WIDTH1, GROUP_M, MODE, PER_TOKEN, PER_CHANNEL, HAS_BIAS,
                    STORE_TMA, SUM_BITS, Y_BITS, BOXES,
                ),
            ),
            (
                _load,
                (x, w0, w1, xs, ws0, ws1, full, empty, m, n, k, STAGES, WIDTH0, WIDTH1, GROUP_M),
            ),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
