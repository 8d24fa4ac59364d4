"""The end of a linear: sums of a split K brought together in one launch, scales, bias, rounding.

**Split K without a second launch and without losing determinism.** Each of the ``splits`` programs
of an output tile writes its fp32 sum, [BM, BN], to a workspace of its own, and then takes a ticket
at the tile's counter. The program with the last ticket reads all of them back in the order 0, 1, …,
whatever order they came in, so the same bits come out every time; it also sets the counter back to
0 for the next call. The ticket is taken after a barrier of the program's threads and releases what
they wrote; who gets it acquires what the others released.
"""

import triton
import triton.language as tl


@triton.jit
def sum_of_splits(
    acc,
    partial_ptr,
    counter_ptr,
    tile,
    split,
    splits,
    BM: tl.constexpr,
    BN: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Give the sum over all splits, [BM, BN], and whether this program is the one to store it.

    Args:
        acc: fp32 [BM, BN], this program's sum.
        partial_ptr: fp32 workspace [tiles, splits, BM, BN].
        counter_ptr: int32 [tiles], all 0; all 0 again when the launch ends.
        tile: Number of the output tile.
        split: Number of this split of K.
        splits: How many there are.
        BM: Rows (tokens) of a tile.
        BN: Columns of a tile.
        AT_ONCE: Partial sums whose loads are under way together.
    """
    size: tl.constexpr = BM * BN
    inside = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
    base = partial_ptr + tile.to(tl.int64) * splits * size
    tl.store(base + split * size + inside, acc)
    # every thread's part is written before the ticket tells of it
    tl.debug_barrier()
    ticket = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu")
    is_last = ticket == splits - 1
    if is_last:
        acc = tl.zeros([BM, BN], dtype=tl.float32)
        for first in tl.range(0, splits, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                offsets = (first + i) * size + inside
                # not through L1, which knows nothing of what other programs wrote
                acc += tl.load(
                    base + offsets, mask=offsets < splits * size, other=0.0, cache_modifier=".cg"
                )
        tl.store(counter_ptr + tile, 0)
    return acc, is_last


@triton.jit
def store_rows(values, y_ptr, y_stride, rows, columns, M, N):
    """Round ``values`` [BM, BN] once and store the part inside [M, N]; rows lie y_stride apart."""
    target = y_ptr + rows[:, None].to(tl.int64) * y_stride + columns[None, :]
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(target, values.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def prefetch_rows(row_ptrs, first, last):
    """Ask for the bytes [first, last) of every row to be brought into L2; waits for nothing.

    Args:
        row_ptrs: Pointers to one-byte elements, one a row.
        first: Offset of the first byte.
        last: Offset behind the last byte, above ``first``.
    """
    lines = tl.arange(0, 4) * 128
    for start in tl.range(first, last, 512):
        # lines beyond the end ask for the last one again
        offsets = tl.minimum(start + lines, last - 1)
        address = (row_ptrs[:, None] + offsets[None, :]).to(tl.uint64, bitcast=True)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; // $0",
            "=r,l",
            [address],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
