"""Device code of the FP8 block product for Hopper, its warps divided between loading and summing.

In the form that Triton's own compiler makes (`fp8_block_kernel`), all warps multiply, wait, promote
and wait for loads together, so the tensor cores idle during every promotion. Here one warp only
loads, and two groups of four warps each own 64 rows of the output tile. They share the stages in
shared memory, but wait for each other nowhere else: while one promotes its short sum, the other's
product keeps the tensor cores busy.

A stage holds 128 of K: 128 rows of x and `PARTS` times 128 rows of W. `full` of a stage completes
when its bytes have arrived, `empty` when both groups have read them. Scales are loaded one step
ahead into registers.
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


@gluon.jit
def _tile_of(tile, m, n, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, GROUP_M: gl.constexpr):
    rows = gl.cdiv(m, BLOCK_M)
    per_group = GROUP_M * gl.cdiv(n, BLOCK_N)
    group = tile // per_group
    first = group * GROUP_M
    height = gl.minimum(rows - first, GROUP_M)
    inside = tile % per_group
    return first + inside % height, inside // height


@gluon.jit
def _promote(part, scale, total):
    """Give part · scale + total, here and now.

    In plain arithmetic the compiler would put it off beyond the next product, where both short
    sums would need registers: 150 of them were spilled (ptxas of Triton 3.6, sm_90a).
    """
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;",
        "=f,f,f,f",
        [part, gl.expand_dims(scale, 1).broadcast_to([64, 128]), total],
        dtype=gl.float32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _load(
    x, w, xs, ws, full, empty, m, n, k,
    STAGES: gl.constexpr, PARTS: gl.constexpr, GROUP_M: gl.constexpr,
):  # fmt: skip
    """Keep the stages filled, tile after tile."""
    BYTES: gl.constexpr = (128 + 128 * PARTS) * 128
    steps = gl.cdiv(k, 128)
    tiles = gl.cdiv(m, 128) * gl.cdiv(n, 128 * PARTS)
    count = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        tile_row, tile_col = _tile_of(tile, m, n, 128, 128 * PARTS, GROUP_M)
        for step in range(0, steps):
            stage = count % STAGES
            mbarrier.wait(empty.index(stage), ((count // STAGES) & 1) ^ 1)
            done = full.index(stage)
            mbarrier.expect(done, BYTES)
            for half in gl.static_range(2):
                tma.async_copy_global_to_shared(
                    x, [tile_row * 128 + half * 64, step * 128], done, xs.index(stage * 2 + half)
                )
            for part in gl.static_range(PARTS):
                tma.async_copy_global_to_shared(
                    w,
                    [tile_col * (128 * PARTS) + part * 128, step * 128],
                    done,
                    ws.index(stage * PARTS + part),
                )
            count += 1


@gluon.jit
def _store(
    y, ys, acc, row, col, n, bias_ptr,
    HAS_BIAS: gl.constexpr, ACC: gl.constexpr,
):  # fmt: skip
    if HAS_BIAS:
        cols = col + gl.arange(0, 128, gl.SliceLayout(0, ACC))
        acc += gl.load(bias_ptr + cols, mask=cols < n, other=0.0)[None, :]
    tma.store_wait(0)
    gl.thread_barrier()
    ys.store(acc.to(y.dtype))
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(y, [row, col], ys)


@gluon.jit
def _sum(
    WHICH: gl.constexpr, y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
    m, n, k, sa_row, sa_col,
    STAGES: gl.constexpr, PARTS: gl.constexpr, GROUP_M: gl.constexpr,
    HAS_BIAS: gl.constexpr,
):  # fmt: skip
    """Multiply, promote and store 64 rows of every tile."""
    ACC: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 32]
    )
    steps = gl.cdiv(k, 128)
    tiles = gl.cdiv(m, 128) * gl.cdiv(n, 128 * PARTS)
    last = (n - 1) // 128
    zero = gl.zeros([64, 128], gl.float32, ACC)
    part = zero  # what it held does not count, but its registers are used again
    count = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        tile_row, tile_col = _tile_of(tile, m, n, 128, 128 * PARTS, GROUP_M)
        row = tile_row * 128 + WHICH * 64
        rows = gl.minimum(row + gl.arange(0, 64, gl.SliceLayout(1, ACC)), m - 1)
        a_at = scale_a_ptr + rows.to(gl.int64) * sa_row
        b0_at = scale_b_ptr + gl.minimum(tile_col * PARTS, last) * steps
        b1_at = scale_b_ptr + gl.minimum(tile_col * PARTS + PARTS - 1, last) * steps
        sum0 = zero
        sum1 = zero
        scale_a = gl.load(a_at)
        scale0 = gl.load(b0_at)
        scale1 = gl.load(b1_at)
        for step in range(0, steps):
            stage = count % STAGES
            mbarrier.wait(full.index(stage), (count // STAGES) & 1)
            a = xs.index(stage * 2 + WHICH)
            part = warpgroup_mma(
                a, ws.index(stage * PARTS).permute((1, 0)), part, use_acc=False, is_async=True
            )
            ahead = gl.minimum(step + 1, steps - 1)
            by0 = scale_a * scale0
            by1 = scale_a * scale1
            scale_a = gl.load(a_at + ahead * sa_col)
            scale0 = gl.load(b0_at + ahead)
            scale1 = gl.load(b1_at + ahead)
            part = warpgroup_mma_wait(0, deps=[part])
            if PARTS == 2:
                sum0 = _promote(part, by0, sum0)
                part = warpgroup_mma(
                    a,
                    ws.index(stage * PARTS + 1).permute((1, 0)),
                    part,
                    use_acc=False,
                    is_async=True,
                )
                part = warpgroup_mma_wait(0, deps=[part])
                gl.thread_barrier()
                mbarrier.arrive(empty.index(stage), count=1)
                sum1 = _promote(part, by1, sum1)
            else:
                gl.thread_barrier()
                mbarrier.arrive(empty.index(stage), count=1)
                sum0 = _promote(part, by0, sum0)
            count += 1
        col = tile_col * (128 * PARTS)
        _store(y, ys.index(WHICH), sum0, row, col, n, bias_ptr, HAS_BIAS, ACC)
        if PARTS == 2:
            _store(y, ys.index(WHICH), sum1, row, col + 128, n, bias_ptr, HAS_BIAS, ACC)
    tma.store_wait(0)


@gluon.jit
def _sum0(
    y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, sa_row, sa_col,
    STAGES: gl.constexpr, PARTS: gl.constexpr, GROUP_M: gl.constexpr,
    HAS_BIAS: gl.constexpr,
):  # fmt: skip
    _sum(0, y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, sa_row, sa_col,
         STAGES, PARTS, GROUP_M, HAS_BIAS)  # fmt: skip


@gluon.jit
def _sum1(
    y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, sa_row, sa_col,
    STAGES: gl.constexpr, PARTS: gl.constexpr, GROUP_M: gl.constexpr,
    HAS_BIAS: gl.constexpr,
):  # fmt: skip
    _sum(1, y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr, m, n, k, sa_row, sa_col,
         STAGES, PARTS, GROUP_M, HAS_BIAS)  # fmt: skip


@gluon.jit(do_not_specialize=("m", "n", "k", "sa_row", "sa_col"))
def block_gemm_hopper(
    x,
    w,
    y,
    scale_a_ptr,
    scale_b_ptr,
    bias_ptr,
    m,
    n,
    k,
    sa_row,
    sa_col,
    STAGES: gl.constexpr,
    PARTS: gl.constexpr,
    GROUP_M: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    LOAD_REGISTERS: gl.constexpr,
    SUM_REGISTERS: gl.constexpr,
):
    """Multiply by TMA descriptors x [M, K], w [N, K] and y [M, N]."""
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * 2, 64, 128], x.layout)
    ws = gl.allocate_shared_memory(w.dtype, [STAGES * PARTS, 128, 128], w.layout)
    ys = gl.allocate_shared_memory(y.dtype, [2, 64, 128], y.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    # the tuples are written out here: a variable would make numbers of the compile-time values
    gl.warp_specialize(
        [
            (
                _sum0,
                (
                    y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
                    m, n, k, sa_row, sa_col, STAGES, PARTS, GROUP_M, HAS_BIAS,
                ),
            ),
            (
                _sum1,
                (
                    y, xs, ws, ys, full, empty, scale_a_ptr, scale_b_ptr, bias_ptr,
                    m, n, k, sa_row, sa_col, STAGES, PARTS, GROUP_M, HAS_BIAS,
                ),
            ),
            (_load, (x, w, xs, ws, full, empty, m, n, k, STAGES, PARTS, GROUP_M)),
        ],
        [4, 1],
        [SUM_REGISTERS, LOAD_REGISTERS],
    )  # fmt: skip
