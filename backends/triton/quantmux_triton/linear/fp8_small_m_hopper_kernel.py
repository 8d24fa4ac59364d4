"""The FP8 products for few tokens on Hopper, by explicit loads and barriers.

What `fp8_small_m_kernel` does, in Gluon, for what Triton's own loops cannot do:

- **Weights are on their way before the kernel before has ended.** With programmatic dependent
  launch this kernel starts while that one still runs. It may not touch x yet, but it may load
  weights: the first ``STAGES`` steps of them are asked for by TMA, into shared memory, and only
  then it waits.
- A step is complete when its weights and its rows of x have arrived, at one barrier for both.
- The scales of all blocks of the split are multiplied once and kept in shared memory.
- Two blocks of 128 are multiplied one behind the other, so that the tensor core works on one while
  the other's short sum is promoted.

One group of four warps, 64 channels by ``BM`` tokens: there are as many programs as fit the GPU,
and they wait for different things at different times. ``MODE`` is 0 for one chain of all products
("fast"), 1 to promote every 128 of them ("exact"), 2 to multiply each 128 by their scales first.
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

_memory = gl.shared_memory_descriptor
_seen_as = getattr(_memory, "reinterpret", None) or _memory._reinterpret  # noqa: SLF001

RUNTIME_INTEGERS = ("M", "N", "K", "y_stride", "sa_row", "sa_column", "splits")
SMALL_POINTERS = ("sb_ptr", "sa_ptr", "bias_ptr", "y_ptr")


@gluon.jit
def _dependents():
    """Wait for the kernel before, then let the one behind start."""
    gl.inline_asm_elementwise(
        "griddepcontrol.wait; griddepcontrol.launch_dependents; mov.u32 $0, 0;",
        "=r",
        [],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def _expect(ready, slot, BM: gl.constexpr, BLOCKS: gl.constexpr, pred):
    """Say how many bytes complete a step, of weights and of x together."""
    mbarrier.expect(ready.index(slot), (64 + BM) * 128 * BLOCKS, pred=pred)


@gluon.jit
def _load(rows, into, ready, slot, row, block, BLOCKS: gl.constexpr, pred):
    """Ask for what one step reads of W or of x."""
    for b in gl.static_range(BLOCKS):
        box = into.index(slot * BLOCKS + b)
        _copy_in(rows, [row, (block + b) * 128], ready.index(slot), box, pred=pred)


@gluon.jit
def _product(ws, xs, at, part, USE: gl.constexpr):
    """Start the product of one block of 128."""
    return warpgroup_mma(
        ws.index(at), xs.index(at).permute((1, 0)), part, use_acc=USE, is_async=True
    )


@gluon.jit
def _by(scales, block, part, MODE: gl.constexpr, ACC: gl.constexpr):
    """Give a short sum by the scales of its block."""
    if MODE == 2:
        scale = scales.index(block).load(gl.SliceLayout(0, ACC))
        part = part * gl.expand_dims(scale, 0)
    return part


@gluon.jit(do_not_specialize=RUNTIME_INTEGERS, do_not_specialize_on_alignment=SMALL_POINTERS)
def fp8_small_m_hopper(
    w,
    x,
    sb_ptr,
    sa_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    counter_ptr,
    M,
    N,
    K,
    y_stride,
    sa_row,
    sa_column,
    splits,
    BM: gl.constexpr,
    STAGES: gl.constexpr,
    BLOCKS: gl.constexpr,
    SCALES: gl.constexpr,
    MODE: gl.constexpr,
    BY_TOKEN: gl.constexpr,
    BY_CHANNEL: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    IS_SPLIT: gl.constexpr,
    PDL: gl.constexpr,
    AT_ONCE: gl.constexpr,
):
    """Give one tile [BM, 64] of y, or the sum over one split of K of it.

    Args:
        w: TMA descriptor of e4m3 [N, K], boxes of 64 × 128.
        x: TMA descriptor of e4m3 [M, K], boxes of BM × 128.
        sb_ptr: fp32 [N], [1], or [ceil(N/128), ceil(K/128)].
        sa_ptr: fp32 [M], [1], or logically [M, ceil(K/128)].
        bias_ptr: fp32 [N]; not read without HAS_BIAS.
        y_ptr: [M, N], rows y_stride apart.
        partial_ptr: fp32 [tiles, splits, BM, 64]; not touched without IS_SPLIT.
        counter_ptr: int32 [tiles], 0 before and after; likewise.
        M: Tokens.
        N: Channels.
        K: Products of a sum.
        y_stride: Elements from a row of y to the next.
        sa_row: Elements from the scale of a token to that of the next (MODE 2).
        sa_column: Elements from the scale of a block to that of the next (MODE 2).
        splits: Parts that K is cut into, whole steps each.
        BM: Tokens of a tile.
        STAGES: Steps whose loads are under way.
        BLOCKS: Blocks of 128 of a step: 1, 2 or 4.
        SCALES: A power of two, at least the blocks of a split (MODE 2), else 1.
        MODE: 0 fast, 1 exact, 2 block scales.
        BY_TOKEN: sa has M scales, not one.
        BY_CHANNEL: sb has N scales, not one.
        HAS_BIAS: There is a bias.
        IS_SPLIT: splits > 1.
        PDL: Launched with programmatic dependent launch.
        AT_ONCE: Partial sums whose loads are under way together.
    """
    ACC: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BM, 32]
    )
    OUT: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [4, 1], [1, 0])
    pid = gl.program_id(0)
    tiles_n = gl.cdiv(N, 64)
    tile_n = pid % tiles_n
    rest = pid // tiles_n
    split = rest % splits
    tile_m = rest // splits
    blocks = gl.cdiv(K, 128)
    steps = gl.cdiv(blocks, BLOCKS)
    first = split * steps // splits
    count = (split + 1) * steps // splits - first
    column = tile_n * 64
    row = tile_m * BM

    ws = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * BLOCKS, 64, 128], w.layout)
    xs = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * BLOCKS, BM, 128], x.layout)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    table = gl.allocate_shared_memory(gl.float32, [SCALES, BM], PLAIN)
    # the same memory, as rows that can be picked by a number
    LINES: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    scales = _seen_as(table, gl.float32, [SCALES, BM], LINES)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(ready.index(slot), count=1)
    fence_async_shared()
    _barrier()
    for slot in gl.static_range(STAGES):
        _expect(ready, slot, BM, BLOCKS, slot < count)
        _load(w, ws, ready, slot, column, (first + slot) * BLOCKS, BLOCKS, slot < count)
    if PDL:
        _dependents()
    for slot in gl.static_range(STAGES):
        _load(x, xs, ready, slot, row, (first + slot) * BLOCKS, BLOCKS, slot < count)

    if MODE == 2:
        TABLE: gl.constexpr = gl.BlockedLayout([1, 1], [2, 16], [4, 1], [1, 0])
        token = row + gl.arange(0, BM, gl.SliceLayout(0, TABLE))
        last = gl.minimum((first + count) * BLOCKS, blocks)
        ours = first * BLOCKS + gl.arange(0, SCALES, gl.SliceLayout(1, TABLE))
        there = gl.expand_dims(token < M, 0) & gl.expand_dims(ours < last, 1)
        a_at = gl.expand_dims(token * sa_row, 0) + gl.expand_dims(ours * sa_column, 1)
        b_at = gl.expand_dims(column // 128 * blocks + ours, 1) + gl.expand_dims(token * 0, 0)
        sa = gl.load(sa_ptr + a_at, mask=there, other=0.0)
        sb = gl.load(sb_ptr + b_at, mask=there, other=0.0)
        table.store(sa * sb)
        _barrier()

    acc = gl.zeros([64, BM], gl.float32, ACC)
    part = acc
    other = acc
    for step in range(count):
        now = step % STAGES
        mbarrier.wait(ready.index(now), (step // STAGES) & 1)
        at = now * BLOCKS
        block = step * BLOCKS
        if MODE == 0:
            for b in gl.static_range(BLOCKS):
                acc = _product(ws, xs, at + b, acc, True)
            acc = warpgroup_mma_wait(0, deps=[acc])
        elif BLOCKS == 1:
            part = _product(ws, xs, at, part, False)
            part = warpgroup_mma_wait(0, deps=[part])
            acc += _by(scales, block, part, MODE, ACC)
        else:
            for pair in gl.static_range(BLOCKS // 2):
                part = _product(ws, xs, at + 2 * pair, part, False)
                other = _product(ws, xs, at + 2 * pair + 1, other, False)
                part = warpgroup_mma_wait(1, deps=[part])
                acc += _by(scales, block + 2 * pair, part, MODE, ACC)
                other = warpgroup_mma_wait(0, deps=[other])
                acc += _by(scales, block + 2 * pair + 1, other, MODE, ACC)
        ahead = step + STAGES
        if ahead < count:
            # everybody has read the slot
            _barrier()
            after = (first + ahead) * BLOCKS
            _expect(ready, now, BM, BLOCKS, True)
            _load(w, ws, ready, now, column, after, BLOCKS, True)
            _load(x, xs, ready, now, row, after, BLOCKS, True)

    is_last = True
    if IS_SPLIT:
        tile = tile_m * tiles_n + tile_n
        base = partial_ptr + tile.to(gl.int64) * splits * (BM * 64)
        inside = gl.expand_dims(gl.arange(0, 64, gl.SliceLayout(1, ACC)), 1) + gl.expand_dims(
            gl.arange(0, BM, gl.SliceLayout(0, ACC)) * 64, 0
        )
        gl.store(base + split * (BM * 64) + inside, acc)
        # every thread's part is written before the ticket tells of it
        _barrier()
        ticket = gl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu")
        is_last = ticket == splits - 1
    if is_last:
        tokens = gl.arange(0, BM, gl.SliceLayout(1, OUT))
        channels = gl.arange(0, 64, gl.SliceLayout(0, OUT))
        if IS_SPLIT:
            total = gl.zeros([BM, 64], gl.float32, OUT)
            inside_out = gl.expand_dims(tokens * 64, 1) + gl.expand_dims(channels, 0)
            for start in range(0, splits, AT_ONCE):
                for i in gl.static_range(AT_ONCE):
                    at_split = (start + i) * (BM * 64) + inside_out
                    total += gl.load(
                        base + at_split,
                        mask=at_split < splits * (BM * 64),
                        other=0.0,
                        cache_modifier=".cg",
                    )
            gl.store(counter_ptr + tile, 0)
        else:
            total = gl.convert_layout(acc.permute((1, 0)), OUT)
        tokens += row
        channels += column
        if MODE != 2:
            sa_at = tokens if BY_TOKEN else tokens * 0
            sb_at = channels if BY_CHANNEL else channels * 0
            sa_out = gl.load(sa_ptr + sa_at, mask=tokens < M, other=0.0)
            sb_out = gl.load(sb_ptr + sb_at, mask=channels < N, other=0.0)
            total = total * gl.expand_dims(sa_out, 1) * gl.expand_dims(sb_out, 0)
        if HAS_BIAS:
            bias = gl.load(bias_ptr + channels, mask=channels < N, other=0.0)
            total += gl.expand_dims(bias.to(gl.float32), 0)
        target = gl.expand_dims(tokens.to(gl.int64) * y_stride, 1) + gl.expand_dims(channels, 0)
        kept = gl.expand_dims(tokens < M, 1) & gl.expand_dims(channels < N, 0)
        gl.store(y_ptr + target, total.to(y_ptr.dtype.element_ty), mask=kept)
